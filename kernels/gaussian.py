"""From random words to N(0, 1): two normals from each 32-bit word, eight from each Philox call.

Box–Muller, z = √(−2 ln u) · (cos θ, sin θ), both from one word w: the high 23 bits a = w >> 9 give u = (2a + 1)/2²⁴,
and the low 23 bits of w·M, with the lowest set, give b and θ = π(b/2²² − 1). So

- |z| ≤ √(48 ln 2) = 5.768, and 8e-9 of a true normal's mass lies beyond;
- the pairs (u, θ) are the points of a rank-1 lattice, M/2²³ near the golden ratio, which fill the plane evenly at every
  scale, in the tail too. (Disjoint bits for u and θ do not: with nine for θ the distribution of z is off by 8e-4.)

Two normals a word halve the cost of Philox, which is otherwise the largest part.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

NORMALS_PER_CALL = tl.constexpr(8)


@triton.jit
def _uniform(word):
    """u ∈ {1, 3, 5, …}/2²⁴, exact: the high bits become the mantissa of a float in [1, 2)."""
    return ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 0.9999999403953552


@triton.jit
def _minus_two_log(u, FAST: tl.constexpr):
    """−2 ln u for 0 < u < 1."""
    if FAST:
        # Near u = 1 the fast logarithm may come out with the wrong sign; |·| is free and keeps the root real.
        return tl.abs(libdevice.fast_log2f(u) * 1.3862943611198906)
    # u = 2^e · (1 + t) with 1 + t in [√½, √2), and ln(1 + t) = t + t²·p(t): relative error 3e-8.
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    t = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(t, 0.08734750747680664, -0.14307482540607452)
    p = tl.fma(t, p, 0.14917989075183868)
    p = tl.fma(t, p, -0.165705144405365)
    p = tl.fma(t, p, 0.19962070882320404)
    p = tl.fma(t, p, -0.25001755356788635)
    p = tl.fma(t, p, 0.33333951234817505)
    p = tl.fma(t, p, -0.49999991059303284)
    return -2.0 * tl.fma(e.to(tl.float32), 0.6931471805599453, tl.fma(t * t, p, t))


@triton.jit
def _sine_of_quarter(q):
    """sin 2πq for |q| ≤ ¼: relative error 6e-9 before rounding."""
    s = q * q
    p = tl.fma(s, 39.71113204956055, -76.57501983642578)
    p = tl.fma(s, p, 81.60223388671875)
    p = tl.fma(s, p, -41.341678619384766)
    return q * tl.fma(s, p, 6.2831854820251465)


@triton.jit
def _cosine_and_sine(word, FAST: tl.constexpr):
    """cos θ and sin θ of θ = π(b/2²² − 1), b odd in 0 … 2²³."""
    b = ((word * tl.full((), 0x4F1BBD, tl.uint32)) & 0x7FFFFE) | 1
    if FAST:
        # b becomes the mantissa of 2²³ + b: a logical instruction where a conversion would take a slow one.
        theta = (b | 0x4B000000).to(tl.float32, bitcast=True) * 7.490140565778711e-07 - 9.42477798461914
        return libdevice.fast_cosf(theta), libdevice.fast_sinf(theta)
    # In turns from −½ to ½: cos 2πv = sin 2π(¼ − |v|), and the sine is the cosine a quarter turn back.
    v = (b.to(tl.int32) - 0x400000).to(tl.float32) * 1.1920928955078125e-07
    w = (((b.to(tl.int32) - 0x200000) & 0x7FFFFF) - 0x400000).to(tl.float32) * 1.1920928955078125e-07
    return _sine_of_quarter(0.25 - tl.abs(v)), _sine_of_quarter(0.25 - tl.abs(w))


@triton.jit
def box_muller(word, FAST: tl.constexpr):
    """Two independent normals, float32, from each word."""
    radius = tl.sqrt(_minus_two_log(_uniform(word), FAST))
    cosine, sine = _cosine_and_sine(word, FAST)
    return radius * cosine, radius * sine
