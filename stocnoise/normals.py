"""N(0, 1) for the ATen path: a pure function of a seed, a size and the position in memory.

PyTorch draws normals on a CPU with one serial Mersenne Twister, which would be most of the layer's time. Large tensors
are therefore filled from a table: a hash of the position looks up normals, and sums and differences of what it finds
fill in all that lies between the table's entries. 4.2 million take 2.4 ms on one thread, where `normal_` takes 11.
"""

from __future__ import annotations

import functools
import hashlib
import math

import torch
from torch import Tensor

# From here on the table is faster, although each operation costs about a µs.
_LARGE = 1 << 15
# Words under one key, four normals each. A row's temporaries, 12 bytes a word, and the normals fit in a core's cache.
_WORDS = 1 << 14
_NORMALS = 4 * _WORDS
_ROWS_A_THREAD = 8

_MASK32 = (1 << 32) - 1
_MASK64 = (1 << 64) - 1

_LEVELS = 1 << 16
# Of a lattice whose points fill the square evenly. The offset keeps the extremes of both coordinates apart: with it
# neither the coordinates nor their squares are correlated by more than 1e-4.
_MULTIPLIER, _OFFSET = 40493, 6144


def fill_normal(out: Tensor, seed: int) -> Tensor:
    """Overwrite `out` (dense, float32 or float64, any device) with N(0, 1); the number of threads changes nothing."""
    flat = out.as_strided((out.numel(),), (1,))  # in any other order than memory's it is slow
    if out.device.type == "cpu" and out.dtype == torch.float32 and out.numel() >= _LARGE:
        _fill_rows(flat, seed)
    else:
        key = int.from_bytes(_digest(seed, 8), "little") >> 1
        flat.normal_(generator=torch.Generator(device=out.device).manual_seed(key))
    return out


def _fill_rows(flat: Tensor, seed: int) -> None:
    whole, rest = divmod(flat.numel(), _NORMALS)
    keys = _keys(seed, whole + 1)
    at_once = _ROWS_A_THREAD * torch.get_num_threads()
    for first in range(0, whole, at_once):
        last = min(first + at_once, whole)
        _fill(keys[first:last], flat[first * _NORMALS : last * _NORMALS])
    if rest:
        row = torch.empty((rest + 3) // 4 * 4, device="cpu", dtype=torch.float32)
        _fill(keys[-1:], row)
        flat[-rest:] = row[:rest]


def _fill(keys: Tensor, flat: Tensor) -> None:
    """Fill a row for each of `keys` (rows, 2): each row's halves are (a + b) and (a − b) of what was looked up.

    The table's variance is ½, so these are of variance 1: 2³² values where the table has 65,536.
    """
    words = _words(flat.numel() // (4 * len(keys)), keys)
    _look_up(words.view(torch.uint16).to(torch.int32).view(-1), flat)
    a, b = flat.view(len(keys), 2, -1).unbind(1)
    a.add_(b)
    torch.sub(a, b, alpha=2, out=b)


def _look_up(index: Tensor, flat: Tensor) -> None:
    """The table's pairs (N,) into `flat` (2N,)."""
    pairs = flat.view(-1, 2)
    if torch.get_num_threads() < 4:
        torch.index_select(_table(), 0, index, out=torch.view_as_complex(pairs))
    else:  # four times as much work, but it is shared out: PyTorch looks up in one dimension on one thread
        torch.index_select(torch.view_as_real(_table()), 0, index, out=pairs)


@functools.cache
def _table() -> Tensor:
    """(65536,) complex64: a lattice of pairs of independent normals of variance ½.

    Either coordinate takes the mean of a normal in each of 65,536 cells of equal probability. Its largest value, 3.1,
    bounds the sums: |z| ≤ 6.2. Beyond 4.5 they are 3 % rarer than a normal's, beyond 5 10 %.
    """
    edges = torch.special.ndtri(torch.arange(_LEVELS + 1, dtype=torch.float64, device="cpu") / _LEVELS)
    density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
    means = (density[:-1] - density[1:]) * _LEVELS
    means = (means / means.square().mean().sqrt() * math.sqrt(0.5)).float()
    number = torch.arange(_LEVELS, device="cpu")
    return torch.complex(means, means[(number * _MULTIPLIER + _OFFSET) % _LEVELS])


def _digest(seed: int, size: int) -> bytes:
    """So many random bytes for each seed."""
    return hashlib.shake_128((seed & _MASK64).to_bytes(8, "little")).digest(size)


def _keys(seed: int, n: int) -> Tensor:
    """(n, 2) int32: what a row's counters are combined with, and an odd factor."""
    keys = torch.frombuffer(bytearray(_digest(seed, 8 * n)), dtype=torch.int32).view(n, 2)
    keys[:, 1].bitwise_or_(1)
    return keys


@functools.cache
def _counters() -> Tensor:
    """0, 1, …, _WORDS − 1, scrambled by `lowbias32` of the hash prospector (C. Wellons, 2018): once, for all keys."""
    words = torch.arange(_WORDS, device="cpu") * 0x9E3779B1 & _MASK32  # odd, near 2³² / φ: no small differences
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ words >> shift) * factor & _MASK32
    words ^= words >> 16
    return words.sub_(1 << 31).to(torch.int32)


def _words(n: int, keys: Tensor) -> Tensor:
    """(rows, n) random int32 under keys (rows, 2), both halves of each.

    The counters are random already; a row's key only has to make them others. A product's upper half is a good hash of
    all bits, and the lower half takes the upper one in addition.
    """
    words = torch.bitwise_xor(_counters()[:n], keys[:, :1]).mul_(keys[:, 1:])
    return words.add_(torch.bitwise_right_shift(words, _HALF))


# Given as a number it would be converted to int32 each time.
_HALF = torch.tensor(16, dtype=torch.int32, device="cpu")
