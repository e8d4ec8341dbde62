"""N(0, 1) for the ATen path: a pure function of a seed, a size and the position in memory.

PyTorch draws normals on a CPU with one serial Mersenne Twister, which would be most of the layer's time. Large tensors
are therefore filled by a hash of the element's number, in elementwise operations that stay in the cache and use every
thread: 4.2 million take 8 ms on one thread and 5 on two, where `normal_` takes 11. A third of that is one logarithm and
one square root for each pair.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

# From here on the hash is faster on one thread as well, although each of its operations costs about a µs.
_LARGE = 1 << 16
# Pairs under one key. Their temporaries, 16 bytes a pair, and those of a few rows more, fit in a core's cache.
_ROW = 1 << 15
_ROWS_A_THREAD = 4

_MASK32 = (1 << 32) - 1
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B1  # odd, near 2³² / φ


def fill_normal(out: Tensor, seed: int) -> Tensor:
    """Overwrite `out` (dense, float32 or float64, any device) with N(0, 1).

    The number of threads changes nothing but, at most, a value's last bits.
    """
    flat = out.as_strided((out.numel(),), (1,))  # in any other order than memory's it is slow
    if out.device.type == "cpu" and out.dtype == torch.float32 and out.numel() >= _LARGE:
        _fill_rows(flat, seed)
    else:
        flat.normal_(generator=torch.Generator(device=out.device).manual_seed(_key(seed, 0) >> 1))
    return out


def _fill_rows(flat: Tensor, seed: int) -> None:
    whole, rest = divmod(flat.numel(), 2 * _ROW)
    keys = _keys(seed, whole + 1)
    rows = flat[: whole * 2 * _ROW].view(whole, 2, _ROW)
    at_once = _ROWS_A_THREAD * torch.get_num_threads()
    for first in range(0, whole, at_once):
        part = slice(first, min(first + at_once, whole))
        _box_muller(_words(_ROW, keys[part]), rows[part, 0], rows[part, 1])
    if rest:
        pairs = torch.empty(1, 2, (rest + 1) // 2)
        _box_muller(_words(pairs.shape[2], keys[-1:]), pairs[:, 0], pairs[:, 1])
        flat[-rest:] = pairs.view(-1)[:rest]


def _key(seed: int, number: int) -> int:
    """A 64-bit key for each seed and number, by SplitMix64 (Steele et al., OOPSLA 2014)."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def _keys(seed: int, n: int) -> Tensor:
    """(n, 2) int32: what a row's counters are combined with, and an odd factor."""
    keys = [_key(seed, number) for number in range(n)]
    halves = [[_signed(key), _signed(key >> 32 | 1)] for key in keys]
    return torch.tensor(halves, dtype=torch.int32, device="cpu")


def _signed(word: int) -> int:
    """The int32 with the low 32 bits of `word`."""
    word &= _MASK32
    return word - (1 << 32) if word >> 31 else word


@functools.cache
def _counters() -> Tensor:
    """0, 1, …, _ROW − 1, already scrambled once: what no key changes is done once for all."""
    words = (torch.arange(_ROW, device="cpu") * _GOLDEN & _MASK32).sub_(1 << 31).to(torch.int32)
    return _xor_shifted(_xor_shifted(words, 16).mul_(0x7FEB352D), 15).mul_(_signed(0x846CA68B))


def _words(n: int, keys: Tensor) -> Tensor:
    """(rows, n) random int32 under keys (rows, 2). No two of a row are equal: each step is a bijection of 32 bits.

    The shift and the constant are those of `lowbias32` of the hash prospector (C. Wellons, 2018). Its last step, for
    the lowest bits, is left out: `_box_muller` uses the highest, of the word and of a multiple of it.
    """
    words = torch.bitwise_xor(_counters()[:n], keys[:, :1]).mul_(keys[:, 1:])
    return _xor_shifted(words, 15).mul_(_signed(0x846CA68B))


def _xor_shifted(words: Tensor, shift: int) -> Tensor:
    shifted = torch.bitwise_right_shift(words, shift).bitwise_and_((1 << 32 - shift) - 1)  # the shift is arithmetic
    return words.bitwise_xor_(shifted)


def _box_muller(words: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Two normals from each word w, ±r·cos θ and ±r·sin θ; overwrites `words`.

    r = √(−2 ln u) with u = |w|/2³¹, the sign is w's, and θ ∈ [−π/2, π/2) is w·⌊2³²/φ⌋ mod 2³² in units of π/2³². The
    pairs (u, θ) are the points of a lattice that fills the plane evenly at every scale, as in `kernels/gaussian.py`.
    |z| ≤ √(64 ln 2) = 6.66, beyond which lies 3e-11 of a normal's mass. The sine and the cosine are polynomials, exact
    to 6e-7: PyTorch's own would take two thirds as long as all the rest.
    """
    signed = words.to(torch.float32)
    # −2 ln u = −ln (u² + 2⁻⁶⁴): w = 0 happens
    radius = torch.addcmul(_LEAST, signed, signed, value=2.0**-62).log_().neg_().sqrt_().copysign_(signed)
    t = signed.copy_(words.mul_(_signed(_GOLDEN)))  # 2³¹ · θ/(π/2)
    square = torch.addcmul(_NOUGHT, t, t, value=2.0**-62, out=words.view(torch.float32))
    _polynomial(_COSINE, square, cosines).mul_(radius)
    _polynomial(_SINE, square, sines).mul_(radius.mul_(t))


def _polynomial(coefficients: Sequence[Tensor], x: Tensor, out: Tensor) -> Tensor:
    """Σ cᵢ·xⁱ into `out`, a pass for each power: `addcmul` takes its constant from a 0-dim tensor."""
    *others, last, first = coefficients
    torch.add(last, x, alpha=first.item(), out=out)
    for c in reversed(others):
        torch.addcmul(c, out, x, out=out)
    return out


def _constants(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float32, device="cpu") for value in values)


_LEAST, _NOUGHT = _constants(2.0**-64, 0.0)
# cos(π/2·√s) and sin(π/2·√s)/√s on [0, 1], of least greatest error; the sine's factor t comes in units of 2⁻³¹.
_COSINE = _constants(0.99999995, -1.23369821, 0.25365075, -0.02081061, 0.00085819)
_SINE = _constants(*(c * 2.0**-31 for c in (1.57079101, -0.64589285, 0.07943434, -0.0043331)))
