"""N(0, 1) for the ATen path: a pure function of a seed, a size and the position in memory.

PyTorch draws normals on a CPU with one serial Mersenne Twister, which would be most of the layer's time. Large tensors
are therefore filled from a table: a hash of the position looks up normals, and sums and differences of what it finds
fill in all that lies between the table's entries. 4.2 million take 1.2 ms on one thread and .7 on two, where `normal_`
takes 9.7.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# From here on the table serves. Somewhat smaller tensors would gain too, but another limit is other noise.
_LARGE = 1 << 15
# Words under one key, eight normals each. A row's temporaries, half its size, and the normals fit in a core's cache.
_WORDS = 1 << 13
_NORMALS = 8 * _WORDS
_ROWS_A_THREAD = 8

_MASK32 = (1 << 32) - 1
_MASK64 = (1 << 64) - 1

# Small, because after a convolution it is not in the cache: 65,536 entries took longer to fetch than to look up.
_LEVELS = 1 << 14
# What is added to a level's number before its quantile is taken: with the usual .5 the sums of two would have 15 % less
# beyond 4.5 than a normal, with this 3 %.
_PLACE = 0.35
# A Sobol sequence in four dimensions, scrambled, and in the order of its first coordinate: each other coordinate is its
# shift and, for each bit of the first, a direction, all joined by "exclusive or". Of 3,000 scramblings of PyTorch's
# `SobolEngine` the one whose coordinates came nearest to independent ones, by the products that `_table` speaks of.
_SHIFTS = (6369, 5103, 13562)
_DIRECTIONS = (
    (14560, 5006, 9224, 15693, 8845, 12259, 4656, 3595, 9473, 1438, 9637, 4162, 7758, 4183),
    (9592, 6721, 1283, 2678, 14219, 9911, 2787, 5896, 2927, 15130, 9570, 6888, 7186, 8590),
    (12804, 10384, 2407, 10981, 10641, 3787, 1394, 12042, 11981, 10026, 10692, 710, 6988, 7464),
)


def together() -> bool:
    """For `alone` below: all threads share the work to the end."""
    return False


def fill_normal(out: Tensor, seed: int, alone: Callable[[], bool] = together) -> Tensor:
    """Overwrite `out` (dense, float32 or float64, any device) with N(0, 1).

    On a CPU on all threads, or on the calling one while it is `alone`; neither that nor the number of threads changes a
    bit.
    """
    flat = out.as_strided((out.numel(),), (1,))  # in any other order than memory's it is slow
    for first, normals in drawing(flat, seed, alone):
        flat[first : first + len(normals)] = normals
    return out


def drawing(like: Tensor, seed: int, alone: Callable[[], bool] = together) -> Iterator[tuple[int, Tensor]]:
    """What `fill_normal` fills a tensor like this one with, part by part: where in memory it begins, and its normals
    (n,).

    The next part overwrites them: a large tensor need never be filled, and what is done with a part finds it in the
    cache. Only one drawing can be under way in a thread.
    """
    if like.device.type == "cpu" and like.dtype == torch.float32 and like.numel() >= _LARGE:
        yield from _drawing_rows(like.numel(), seed, alone)
    else:
        key = int.from_bytes(_digest(seed, 8), "little") >> 1
        generator = torch.Generator(device=like.device).manual_seed(key)
        yield 0, torch.empty(like.numel(), dtype=like.dtype, device=like.device).normal_(generator=generator)


def _drawing_rows(n: int, seed: int, alone: Callable[[], bool]) -> Iterator[tuple[int, Tensor]]:
    """Whole rows, of which the last may be longer than what is left: a row for itself would cost as many operations."""
    count, first = -(-n // _NORMALS), 0
    keys = _keys(seed, count)
    while first < count:
        single = alone()
        own = _own.memory(1 if single else torch.get_num_threads())
        at_a_time = 1 if single else own.at_once
        last = min(first + own.at_once, count)
        if count <= at_a_time:  # the usual case, and worth four small operations a layer
            own.rows(0, count).draw(*keys)
        else:
            keyed = zip(*(part[first:last].split(at_a_time) for part in keys), strict=True)
            for row, (key, factor) in zip(range(0, last - first, at_a_time), keyed, strict=True):
                own.rows(row, len(key)).draw(key, factor)
        yield first * _NORMALS, own.normals[: min(last * _NORMALS, n) - first * _NORMALS]
        first = last


class _Rows:
    """`rows` of normals (R, N), and the `index` (R, N/4) of the entries that they are looked up at; dense.

    A row's words are its counters, which are random already, made others by the row's keys. A product's upper half is a
    good hash of all bits, and the lower half takes the upper one in addition. 14 bits of each half of a word look up
    four normals of variance ½; a and b being the first and second half of a row of those, its normals are a + b and
    a − b: 2²⁸ values of variance 1 where the table has 2¹⁴.

    What comes before the normals is computed in their memory. One row has no operation of more than 32,768 elements,
    which PyTorch leaves to the calling thread. To make the views takes about as long as to draw a row.
    """

    def __init__(self, rows: Tensor, index: Tensor) -> None:
        count = len(rows)
        self.index = index
        self.words, self.upper, *_ = rows.view(torch.int32).view(8, count, _WORDS).unbind()
        self.halves = self.words.view(torch.int16)
        self.counters = _counters()
        fours = rows.view(torch.complex128)
        if index.dtype == torch.int32:
            self.table, self.at, self.fours = _table(), index.view(-1), fours.view(-1)
        else:  # along rows, which threads share: in one dimension PyTorch looks up on one thread
            parts = 4 * count
            self.table, self.at, self.fours = _table().expand(parts, -1), index.view(parts, -1), fours.view(parts, -1)
        self.a, self.b = rows.view(count, 2, _NORMALS // 2).unbind(1)

    def draw(self, keys: Tensor, factors: Tensor) -> None:
        """Fill the rows, each under its key and its factor, (R, 1)."""
        torch.bitwise_xor(self.counters, keys, out=self.words).mul_(factors)
        self.words.add_(torch.bitwise_right_shift(self.words, _SHIFT, out=self.upper))
        self.index.copy_(self.halves.bitwise_and_(_MASK))
        if self.at.dim() == 1:
            torch.index_select(self.table, 0, self.at, out=self.fours)
        else:
            torch.gather(self.table, 1, self.at, out=self.fours)
        self.a.add_(self.b)
        torch.sub(self.a, self.b, alpha=2, out=self.b)


class _Memory:
    """What a thread draws in, again and again, `at_once` rows: 0.4 MB a row, of which the system gives what is used.
    With the views of it, without which a small layer takes a fifth longer."""

    def __init__(self, threads: int) -> None:
        self.at_once = _ROWS_A_THREAD * threads
        # What is quicker on one thread takes 32-bit indices, what threads can share is quicker with 64.
        kind = torch.int32 if threads == 1 else torch.int64
        with torch.inference_mode(False):  # where it is first drawn is not where it is last
            self.normals = torch.empty(self.at_once * _NORMALS, dtype=torch.float32, device="cpu")
            self.index = torch.empty(self.at_once, _NORMALS // 4, dtype=kind, device="cpu")
        self.rows = functools.lru_cache(maxsize=256)(self._rows)

    def _rows(self, first: int, count: int) -> _Rows:
        """`count` rows from the one with that number on."""
        with torch.inference_mode(False):
            last = first + count
            return _Rows(self.normals.view(-1, _NORMALS)[first:last], self.index[first:last])


class _Own(threading.local):
    """Each thread has its own memory."""

    def __init__(self) -> None:
        self.memory = functools.cache(_Memory)


_own = _Own()


@functools.cache
def _table() -> Tensor:
    """(16384,) complex128, each of which stands for four float32: independent normals of variance ½.

    Each coordinate takes each of 16,384 quantiles of a normal once. The largest, 2.9, bounds the sums: |z| ≤ 5.8.
    Beyond 4.5 they are 3 % rarer than a normal's, beyond 5 15 %. No two coordinates are correlated by more than 1.2e-4.
    Products of their Hermite polynomials, normalised and of degree four in all, which have the mean 0 for independent
    normals, have at most 1.3e-3, and in the sums half of that.
    """
    number = torch.arange(_LEVELS, device="cpu")
    quantiles = torch.special.ndtri((number.double() + _PLACE) / (_LEVELS - 1 + 2 * _PLACE))
    quantiles = (quantiles / quantiles.square().mean().sqrt() * math.sqrt(0.5)).float()
    levels = [number]
    for shift, directions in zip(_SHIFTS, _DIRECTIONS, strict=True):
        bits = [(number >> bit & 1) * direction for bit, direction in enumerate(directions)]
        levels.append(functools.reduce(torch.bitwise_xor, bits, torch.full_like(number, shift)))
    return quantiles[torch.stack(levels, 1)].view(torch.complex128).view(-1)


def _digest(seed: int, size: int) -> bytes:
    """So many random bytes for each seed."""
    return hashlib.shake_128((seed & _MASK64).to_bytes(8, "little")).digest(size)


def _keys(seed: int, n: int) -> tuple[Tensor, ...]:
    """(n, 1) int32 twice: what each row's counters are combined with, and an odd factor."""
    digest = bytearray(_digest(seed, 8 * n))
    digest[4 * n :: 4] = digest[4 * n :: 4].translate(_ODD)
    return torch.frombuffer(digest, dtype=torch.int32).view(2, n, 1).unbind()


@functools.cache
def _counters() -> Tensor:
    """0, 1, …, _WORDS − 1, scrambled by `lowbias32` of the hash prospector (C. Wellons, 2018): once, for all keys."""
    words = torch.arange(_WORDS, device="cpu") * 0x9E3779B1 & _MASK32  # odd, near 2³² / φ: no small differences
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ words >> shift) * factor & _MASK32
    words ^= words >> 16
    return words.sub_(1 << 31).to(torch.int32)


# Given as numbers they would be converted each time.
_SHIFT = torch.tensor(18, dtype=torch.int32, device="cpu")
_MASK = torch.tensor(_LEVELS - 1, dtype=torch.int16, device="cpu")
# Of a little-endian word its first byte.
_ODD = bytes(byte | 1 for byte in range(256))
