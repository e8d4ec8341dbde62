"""How a tensor lies in memory, as the kernels see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

GROUP = 8  # elements of one Philox call


@dataclass(frozen=True)
class Memory:
    """`outer` blocks, in each of which each of `channels` channels has `inner` consecutive elements."""

    outer: int
    channels: int
    inner: int

    @property
    def block(self) -> int:
        return self.channels * self.inner

    @property
    def numel(self) -> int:
        return self.outer * self.block


@lru_cache(maxsize=1024)
def memory_of(shape: tuple[int, ...], strides: tuple[int, ...], channel_dim: int) -> Memory:
    """The memory of a dense tensor of these strides. However its dimensions are permuted, it has this form."""
    channels, numel = shape[channel_dim], math.prod(shape)
    if channels == 1:
        return Memory(1, 1, numel)
    inner = math.prod(n for n, s in zip(shape, strides, strict=True) if n > 1 and s < strides[channel_dim])
    return Memory(numel // (channels * inner), channels, inner)


@lru_cache(maxsize=1024)
def gap_of(shape: tuple[int, ...], strides: tuple[int, ...], dense: tuple[int, ...], channel_dim: int) -> int | None:
    """Elements that a tensor of `strides` skips between its blocks, where a dense one of strides `dense` skips none.

    None where the kernels cannot read it as it is: its dimensions are in another order, a block is not dense (an
    expanded tensor, every second column), or its blocks do not begin at whole groups.
    """
    block = memory_of(shape, dense, channel_dim).block
    gaps = set()
    for n, stride, dense_stride in zip(shape, strides, dense, strict=True):
        if n == 1:
            continue
        if dense_stride < block:
            if stride != dense_stride:
                return None
        else:
            gap, rest = divmod(stride - dense_stride, dense_stride // block)
            if rest:
                return None
            gaps.add(gap)
    if not gaps or gaps == {0}:
        return 0
    gap = gaps.pop()
    return None if gaps or gap < 0 or gap % GROUP or block % GROUP else gap
