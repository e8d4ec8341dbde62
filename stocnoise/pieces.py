"""A dense tensor's memory as a matrix, whole or in pieces that a CPU's thread works on alone and in its cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from torch import Tensor

ALONE = (1 << 15) - 1
"""So many elements an operation may have that PyTorch does not share out among threads."""


class Matrix:
    """Dense tensors of one shape and its strides, not empty, as (R, W): a row is of one channel (`by_channel`), or,
    where neighbours in memory are of different channels, one element of each."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], channel_dim: int) -> None:
        order = sorted(range(len(shape)), key=strides.__getitem__, reverse=True)
        self.channels = shape[channel_dim]
        inner = math.prod(shape[d] for d in order[order.index(channel_dim) + 1 :])
        self.by_channel = self.channels > 1 and inner > 1
        self.width = inner if self.by_channel else self.channels
        self.rows = math.prod(shape) // self.width

    def of(self, x: Tensor) -> Tensor:
        """A view of x."""
        return x.as_strided((self.rows, self.width), (self.width, 1))

    def spread(self, v: Tensor) -> Tensor:
        """What (C,) is for every row: (R, 1) or (R, W)."""
        if self.by_channel:
            return v.expand(self.rows // self.channels, -1).reshape(-1, 1)
        return v.expand(self.rows, self.width)

    def pieces(self, alone: bool, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors of as many rows, cut between rows alike: `alone` into pieces of at most `ALONE` elements, where rows
        are so short, otherwise not at all. No operation along rows gives another bit by it."""
        rows = len(parts[0])
        size = (alone and ALONE // self.width) or rows
        if size >= rows:
            return iter((parts,))
        return zip(*(part.split(size) for part in parts), strict=True)

    def blocks(self, first: int, flat: Tensor, *whole: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """`flat`, which is of the memory from `first` on, as blocks of the matrix: the end of a row, whole rows, the
        beginning of a row; each with the same block of `whole`, (R, W) or (R, 1)."""
        if len(flat) == self.rows * self.width:
            yield flat.view(self.rows, self.width), *whole
            return
        done = 0
        while done < len(flat):
            row, column = divmod(first + done, self.width)
            left = len(flat) - done
            rows = max(left // self.width, 1) if column == 0 else 1
            width = min(self.width - column, left)
            block = flat.as_strided((rows, width), (width, 1), flat.storage_offset() + done)
            yield block, *(_block(part, row, rows, column, width) for part in whole)
            done += rows * width


_matrix = functools.lru_cache(maxsize=1024)(Matrix)


def matrix_of(x: Tensor, channel_dim: int) -> Matrix:
    """That of dense tensors like x, with its channels along a dimension whose number is not negative."""
    return _matrix(x.shape, x.stride(), channel_dim)


def _block(matrix: Tensor, row: int, rows: int, column: int, width: int) -> Tensor:
    """`rows` × `width` from that place on, in one operation; `rows` × 1 of a matrix (R, 1)."""
    if matrix.shape[1] == 1:
        column, width = 0, 1
    down, along = matrix.stride()
    return matrix.as_strided((rows, width), (down, along), matrix.storage_offset() + row * down + column * along)
