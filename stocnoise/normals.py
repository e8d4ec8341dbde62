"""N(0, 1) for the ATen path: a pure function of a seed, a size and the position in memory.

PyTorch draws normals on a CPU with one serial Mersenne Twister, which would be most of the layer's time. Large tensors
are therefore filled from a table: a hash of the position looks up normals, and sums and differences of what it finds
fill in all that lies between the table's entries. 4.2 million take 3.4 ms on one thread and 2.1 on two, where `normal_`
takes 11.
"""

from __future__ import annotations

import functools
import hashlib
import math
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
    for _ in filling(out, seed, alone):
        pass
    return out


def filling(out: Tensor, seed: int, alone: bool = False) -> Iterator[int]:
    """`fill_normal` step by step, from the front of the memory: so many elements are filled. What is done with them
    between the steps finds them in the cache."""
    flat = out.as_strided((out.numel(),), (1,))  # in any other order than memory's it is slow
    if out.device.type == "cpu" and out.dtype == torch.float32 and out.numel() >= _LARGE:
        yield from _filling_rows(flat, seed, alone)
    else:
        key = int.from_bytes(_digest(seed, 8), "little") >> 1
        flat.normal_(generator=torch.Generator(device=out.device).manual_seed(key))
        yield out.numel()


def _filling_rows(flat: Tensor, seed: int, alone: bool) -> Iterator[int]:
    whole, rest = divmod(flat.numel(), _NORMALS)
    keys, factors = _keys(seed, whole + 1)
    threads = 1 if alone else torch.get_num_threads()
    at_once = min(_ROWS_A_THREAD * threads, max(whole, 1))
    # What is quicker on one thread takes 32-bit indices, what threads can share is quicker with 64.
    kind = torch.int32 if threads == 1 else torch.int64
    index = torch.empty(1 if alone else at_once, _NORMALS // 2, dtype=kind, device="cpu")
    rows = flat[: whole * _NORMALS].view(whole, _NORMALS)
    fill = _fill_alone if alone else _fill_shared
    for first in range(0, whole, at_once):
        some = slice(first, min(first + at_once, whole))
        fill(rows[some], keys[some], factors[some], index)
        if some.stop < whole or rest:
            yield some.stop * _NORMALS
    if rest:
        row = torch.empty(1, (rest + 3) // 4 * 4, device="cpu", dtype=torch.float32)
        _fill_shared(row, keys[whole:], factors[whole:], index)
        flat[-rest:] = row[0, :rest]
    yield flat.numel()


# A row's words are its counters, which are random already, made others by the row's keys. A product's upper half is a
# good hash of all bits, and the lower half takes the upper one in addition. Each half of a word looks up a pair of
# normals of variance ½; a and b being the first and second half of a row of those, its normals are a + b and a − b: 2³²
# values of variance 1 where the table has 65,536.


def _fill_shared(rows: Tensor, keys: Tensor, factors: Tensor, index: Tensor) -> None:
    """Fill `rows` (R, N) under their `keys` and `factors` (R, 1), each operation on all rows and on all threads.

    Nothing fresh is needed but the `index`, which is overwritten: what comes before the normals is computed in their
    memory. One row has no operation of more than 32,768 elements, which PyTorch leaves to the calling thread.
    """
    count, half = len(rows), rows.shape[1] // 2
    quarters = rows.view(torch.int32).view(4, count, half // 2)
    words, upper = quarters[0], quarters[1]
    torch.bitwise_xor(_counters()[: half // 2], keys, out=words).mul_(factors)
    words.add_(torch.bitwise_right_shift(words, _HALF, out=upper))
    index = index.as_strided((count, half), (half, 1)).copy_(words.view(torch.uint16))
    pairs = torch.view_as_complex(rows.view(count, half, 2))
    if index.dtype == torch.int32:
        torch.index_select(_table(), 0, index.view(-1), out=pairs.view(-1))
    else:  # along rows, which threads share: in one dimension PyTorch looks up on one thread
        parts = 4 * count if half % 4 == 0 else count
        torch.gather(_table().expand(parts, -1), 1, index.view(parts, -1), out=pairs.view(parts, -1))
    a, b = rows.view(count, 2, half).unbind(1)
    a.add_(b)
    torch.sub(a, b, alpha=2, out=b)


def _fill_alone(rows: Tensor, keys: Tensor, factors: Tensor, index: Tensor) -> None:
    """The same, one row after the other; of `index` (1, N/2) one is enough."""
    index = index[0]
    counters, table = _counters(), _table()
    words, upper = torch.empty_like(counters), torch.empty_like(counters)
    halves = words.view(torch.uint16)
    pairs = torch.view_as_complex(rows.view(len(rows), 2 * _WORDS, 2))
    # All rows' views are made at once: one by one they cost as much as the operations.
    views = (keys, factors, pairs, *rows.view(len(rows), 2, 2 * _WORDS).unbind(1))
    for key, factor, pair, a, b in zip(*(view.unbind() for view in views), strict=True):
        torch.bitwise_xor(counters, key, out=words).mul_(factor)
        words.add_(torch.bitwise_right_shift(words, _HALF, out=upper))
        index.copy_(halves)
        torch.index_select(table, 0, index, out=pair)
        a.add_(b)
        torch.sub(a, b, alpha=2, out=b)


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
