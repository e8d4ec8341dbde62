"""How a tensor lies in memory, as the kernels see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import triton.language as tl

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


@lru_cache(maxsize=4096)
def walk_of(shape: tuple[int, ...], strides: tuple[int, ...], dense: tuple[int, ...]) -> tuple[Any, ...]:
    """The walk (see `walk.py`) from a dense tensor of strides `dense` to one of the same shape and any strides.

    The outermost length does not enter, so that a new batch size compiles nothing.
    """
    runs: list[list[int]] = []  # (length, stride), innermost first; a run that only continues another is joined to it
    for _, stride, n in sorted(zip(dense, strides, shape, strict=True)):
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1][0] *= n
        elif n > 1:
            runs.append([n, stride])
    if [stride for _, stride in runs] in ([], [1]):
        return ()
    unit = 1
    length, stride = runs[0]
    if stride == 1 and length % GROUP == 0 and all(stride % GROUP == 0 for _, stride in runs[1:]):
        unit = GROUP
        runs = [[length // GROUP, 1]] * (length > GROUP) + [[n, stride // GROUP] for n, stride in runs[1:]]
    walk = [tl.constexpr(unit), runs[0][1]]
    every = 1
    for (n, stride), (_, following) in pairwise(runs):
        every *= n
        walk += [every, following - n * stride]
    return tuple(walk)


@lru_cache(maxsize=1024)
def strides_in_row(shape: tuple[int, ...], dense: tuple[int, ...]) -> tuple[int, ...]:
    """Strides that lead from each element of a dense tensor to its place in its row x[i], were the row alone."""
    strides, stride = [0] * len(shape), 1
    for d in sorted(range(1, len(shape)), key=lambda d: dense[d]):
        strides[d] = stride
        stride *= shape[d]
    return tuple(strides)
