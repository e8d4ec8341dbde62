"""Philox4x32: counter-based random words (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011)."""

import triton
import triton.language as tl

# Seven rounds, the fewest that pass BigCrush in Salmon et al., table 2; ten cost 0.9 instructions more per normal.
ROUNDS = tl.constexpr(7)


@triton.jit
def _wide_product(a, b: tl.constexpr):
    """High and low word of a · b. One 64-bit product, IMAD.WIDE, where `umulhi` and `*` would be two instructions."""
    product = a.to(tl.uint64) * tl.full((), b, tl.uint64)
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox_words(key, counter):
    """The four random words, uint32, of each counter (int64, any shape) under a 64-bit key (int64 scalar).

    Counter and key are split into 32-bit words here, not by `tl.randint4x`, whose treatment of 64-bit offsets has
    changed between versions of Triton, and with it the stream.
    """
    c0 = counter.to(tl.uint32)
    c1 = (counter >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0)
    k0 = key.to(tl.uint32)
    k1 = (key >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        high_a, low_a = _wide_product(c0, 0xD2511F53)
        high_b, low_b = _wide_product(c2, 0xCD9E8D57)
        c0 = high_b ^ c1 ^ k0
        c1 = low_b
        c2 = high_a ^ c3 ^ k1
        c3 = low_a
        k0 += tl.full((), 0x9E3779B9, tl.uint32)
        k1 += tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3
