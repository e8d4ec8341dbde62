"""Philox4x32: counter-based random words (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011)."""

import triton
import triton.language as tl

# Seven rounds, the fewest that pass BigCrush in Salmon et al., table 2; ten cost 0.9 instructions more per normal.
ROUNDS = tl.constexpr(7)


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
        # One 64-bit product, IMAD.WIDE, where `umulhi` and `*` would be two instructions.
        a = c0.to(tl.uint64) * tl.full((), 0xD2511F53, tl.uint64)
        b = c2.to(tl.uint64) * tl.full((), 0xCD9E8D57, tl.uint64)
        c0 = (b >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = b.to(tl.uint32)
        c2 = (a >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = a.to(tl.uint32)
        k0 += tl.full((), 0x9E3779B9, tl.uint32)
        k1 += tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3
