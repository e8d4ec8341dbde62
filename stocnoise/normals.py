"""N(0, 1) for the ATen path: a pure function of a seed, a size and the position in memory.

PyTorch draws normals on a CPU with one serial Mersenne Twister, which would be most of the layer's time. Large tensors
are therefore filled from a table: a hash of the position looks up normals, and sums and differences of what it finds
fill in all that lies between the table's entries. 4.2 million take 2.8 ms on one thread and 1.8 on two, where `normal_`
takes 11.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Iterator

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


def fill_normal(out: Tensor, seed: int, alone: bool = False) -> Tensor:
    """Overwrite `out` (dense, float32 or float64, any device) with N(0, 1).

    On a CPU on all threads, or on the calling one `alone`; neither that nor the number of threads changes a bit.
    """
    flat = out.as_strided((out.numel(),), (1,))  # in any other order than memory's it is slow
    for first, normals in drawing(flat, seed, alone):
        flat[first : first + len(normals)] = normals
    return out


def drawing(like: Tensor, seed: int, alone: bool = False) -> Iterator[tuple[int, Tensor]]:
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


def _drawing_rows(n: int, seed: int, alone: bool) -> Iterator[tuple[int, Tensor]]:
    whole, rest = divmod(n, _NORMALS)
    own = _own.memory(1 if alone else torch.get_num_threads())
    together = 1 if alone else own.at_once
    counts = [min(together, whole - row) for row in range(0, whole, together)]
    keyed = zip(*(part.split([*counts, 1]) for part in _keys(seed, whole + 1)), strict=True)
    for first in range(0, max(whole, 1), own.at_once):
        last = min(first + own.at_once, whole)
        for row in range(first, last, together):
            own.rows(row - first, min(together, last - row)).draw(*next(keyed))
        size = (last - first) * _NORMALS
        if last == whole and rest:
            own.rows(last - first, 1, (rest + 3) // 4 * 4).draw(*next(keyed))
            size += rest
        yield first * _NORMALS, own.normals[:size]


class _Rows:
    """`rows` of normals (R, N), and the `index` (R, N/2) of the entries that they are looked up at; dense.

    A row's words are its counters, which are random already, made others by the row's keys. A product's upper half is a
    good hash of all bits, and the lower half takes the upper one in addition. Each half of a word looks up a pair of
    normals of variance ½; a and b being the first and second half of a row of those, its normals are a + b and a − b:
    2³² values of variance 1 where the table has 65,536.

    What comes before the normals is computed in their memory. One row has no operation of more than 32,768 elements,
    which PyTorch leaves to the calling thread. To make the views takes about as long as to draw a row.
    """

    def __init__(self, rows: Tensor, index: Tensor) -> None:
        count, half = index.shape
        self.index = index
        self.words, self.upper, *_ = rows.view(torch.int32).view(4, count, half // 2).unbind()
        self.halves = self.words.view(torch.uint16)
        self.counters = _counters()[: half // 2]
        pairs = torch.view_as_complex(rows.view(count, half, 2))
        if index.dtype == torch.int32:
            self.table, self.at, self.pairs = _table(), index.view(-1), pairs.view(-1)
        else:  # along rows, which threads share: in one dimension PyTorch looks up on one thread
            parts = 4 * count if half % 4 == 0 else count
            self.table, self.at, self.pairs = _table().expand(parts, -1), index.view(parts, -1), pairs.view(parts, -1)
        self.a, self.b = rows.view(count, 2, half).unbind(1)

    def draw(self, keys: Tensor, factors: Tensor) -> None:
        """Fill the rows, each under its key and its factor, (R, 1)."""
        torch.bitwise_xor(self.counters, keys, out=self.words).mul_(factors)
        self.words.add_(torch.bitwise_right_shift(self.words, _HALF, out=self.upper))
        self.index.copy_(self.halves)
        if self.at.dim() == 1:
            torch.index_select(self.table, 0, self.at, out=self.pairs)
        else:
            torch.gather(self.table, 1, self.at, out=self.pairs)
        self.a.add_(self.b)
        torch.sub(self.a, self.b, alpha=2, out=self.b)


class _Memory:
    """What a thread draws in, again and again, `at_once` rows and one: 0.5 MB a row, of which the system gives what is
    used. With the views of it, without which a small layer takes a fifth longer."""

    def __init__(self, threads: int) -> None:
        self.at_once = _ROWS_A_THREAD * threads
        # What is quicker on one thread takes 32-bit indices, what threads can share is quicker with 64.
        kind = torch.int32 if threads == 1 else torch.int64
        size = (self.at_once + 1) * _NORMALS
        with torch.inference_mode(False):  # where it is first drawn is not where it is last
            self.normals = torch.empty(size, dtype=torch.float32, device="cpu")
            self.index = torch.empty(size // 2, dtype=kind, device="cpu")
        self.rows = functools.lru_cache(maxsize=256)(self._rows)

    def _rows(self, first: int, count: int, size: int = _NORMALS) -> _Rows:
        """`count` rows from the one with that number on, or one that has but this `size`, a multiple of four."""
        start, n = first * _NORMALS, count * size
        with torch.inference_mode(False):
            rows = self.normals[start : start + n].view(count, size)
            return _Rows(rows, self.index[start // 2 : (start + n) // 2].view(count, size // 2))


class _Own(threading.local):
    """Each thread has its own memory."""

    def __init__(self) -> None:
        self.memory = functools.cache(_Memory)


_own = _Own()


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


def _keys(seed: int, n: int) -> tuple[Tensor, ...]:
    """(n, 1) int32 twice: what each row's counters are combined with, and an odd factor."""
    words = torch.frombuffer(bytearray(_digest(seed, 8 * n)), dtype=torch.int32).view(n, 2, 1)
    keys, factors = words.unbind(1)
    return keys, factors.bitwise_or_(_ONE)


@functools.cache
def _counters() -> Tensor:
    """0, 1, …, _WORDS − 1, scrambled by `lowbias32` of the hash prospector (C. Wellons, 2018): once, for all keys."""
    words = torch.arange(_WORDS, device="cpu") * 0x9E3779B1 & _MASK32  # odd, near 2³² / φ: no small differences
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ words >> shift) * factor & _MASK32
    words ^= words >> 16
    return words.sub_(1 << 31).to(torch.int32)


# Given as numbers they would be converted to int32 each time.
_ONE, _HALF = torch.tensor([1, 16], dtype=torch.int32, device="cpu").unbind()
