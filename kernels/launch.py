"""From the layout of a tensor to a launch configuration, by pure functions.

There is no autotuning: it would replay kernels on a layer's state, and cost seconds at every new shape. What is decided
at compile time does not depend on the batch size, so a new batch size compiles nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .layout import GROUP, Memory, memory_of

# Elements of a tile: 16 for each of 128 threads, two 128-bit vectors of bf16 under way. With 8 for each of 256 threads
# the training forward takes 1.4 instructions more per element on sm_90.
TILE = 2048
# An interpreted turn of the loop costs about 30 ms, whatever its size: there tiles are large, and may be half empty.
INTERPRETED_TILE = 1 << 16

# Of a tile of `columns`, and what is best where there is a choice: on an H100 64 took up to 7 % more time than 128, and
# more leave more parts of the statistics to be merged.
MIN_COLUMNS, BEST_COLUMNS, MAX_COLUMNS = 64, 128, 512

# Turns of a program's main loop, at least; at most they are the first of each pair below. Processors are not equally
# near to memory, and many programs even that out: without statistics 4 turns took 1 to 5 % less time on an H100 than 8
# (GELU up to 2 % more), and 32 up to 19 % more. Statistics have to be reduced at the end, and of columns leave many
# parts, so there it is more; but first as many programs as an H100 has room for, 2.5 times over.
FEW_TURNS, SOME_PROGRAMS = 4, 2048
# The second of each pair is how many programs are enough in any case: for the parts' sake, or the grid's, whose second
# side may have 65,535.
ALONE, STATISTICS_OF_ROWS, STATISTICS_OF_COLUMNS = (4, 32768), (16, 8192), (32, 8192)

# For each thread while statistics are collected, on NVIDIA: so six programs find room on a processor. Left to itself
# the compiler takes up to 94, which is room for five, or so few that it cannot interleave: with 16 turns 0 to 10 % more
# time on an H100.
REGISTERS = 80


@dataclass(frozen=True)
class Launch:
    """A launch but for its tensors."""

    family: str
    """The file with the kernel: `rows`, `columns` or `pointwise`."""
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    forward_arguments: dict[str, Any]
    """Those that only the forward kernel takes besides."""
    parts: int
    """Parts of the statistics of each channel; 0 where there are none."""
    waste: float
    """Elements of the tiles for each element of the tensor."""


def _ceil(n: int, divisor: int) -> int:
    return -(-n // divisor)


def _power_above(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _covering(length: int, sizes: list[int], tile: int) -> int:
    """The largest size whose multiples cover `length` with at most 5 % more than the smallest cover."""
    covers = {size: _ceil(length, size) * size for size in sizes}
    most = (1.05 if tile <= TILE else 2.0) * min(covers.values())
    return max(size for size in sizes if covers[size] <= most)


def _turns_each(turns: int, most: int, programs: int) -> int:
    """How many of so many turns, over the whole grid, a program should take."""
    return max(FEW_TURNS, min(most, turns // SOME_PROGRAMS), _ceil(turns, programs))


def _powers(low: int, high: int) -> list[int]:
    return [1 << b for b in range(low.bit_length() - 1, high.bit_length())]


def _rows(memory: Memory, tile: int, statistics: bool) -> Launch:
    N, C, S = memory.outer, memory.channels, memory.inner
    shifted, steady = S % GROUP != 0, memory.block % GROUP == 0
    length = S + GROUP - 1 if shifted else S
    width = _covering(length, _powers(32, tile), tile)
    kc = _covering(C, _powers(1, min(_power_above(C), tile // width)), tile)
    across, along = _ceil(C, kc), _ceil(length, width)
    each = _turns_each(across * N * along, *(STATISTICS_OF_ROWS if statistics else ALONE))
    # Where the shift varies from block to block, rows are counted whole.
    k_each = along if not steady else max(1, min(along, each // N))
    n_each = max(1, min(N, each // k_each))
    k_parts, n_parts = _ceil(along, k_each), _ceil(N, n_each)
    return Launch(
        family="rows",
        grid=(across * k_parts, n_parts),
        arguments={
            "N": N,
            "C": C,
            "S": S,
            "k_each": k_each,
            "SHIFTED": shifted,
            "STEADY": steady,
            "KC": kc,
            "WIDTH": width,
            "num_warps": max(1, min(4, kc * width // 512)),
        },
        forward_arguments={},
        parts=k_parts * n_parts,
        waste=across * kc * along * width / memory.block,
    )


def _width_and_copies(memory: Memory, tile: int) -> tuple[int, int]:
    """How many columns a tile has, and how many blocks of all channels a row.

    A tile is either the whole row, some blocks, or no wider than a block and no narrower than a channel: so each part
    of the statistics is of one channel, and each channel of a program has the same number of parts.
    """
    block, base = memory.block, GROUP // math.gcd(memory.block, GROUP)
    options: list[tuple[int, int]] = []
    if block * base <= MAX_COLUMNS:
        options.append((MAX_COLUMNS, MAX_COLUMNS // (block * base) * base))
    least = MIN_COLUMNS if block >= MIN_COLUMNS else MIN_COLUMNS // 2
    for width in _powers(max(least, _power_above(memory.inner)), min(MAX_COLUMNS, block)):
        options += [(width, base * times) for times in range(1, 9)]
    cover = {(w, m): _ceil(m * block, w) * w / (m * block) for w, m in options}
    most = (1.05 if tile <= TILE else 2.0) * min(cover.values())
    fitting = (option for option in options if cover[option] <= most)
    return min(fitting, key=lambda option: (option[1], max(option[0], BEST_COLUMNS), -option[0]))


def _columns(memory: Memory, tile: int, statistics: bool, nvidia: bool) -> Launch:
    C, S = memory.channels, memory.inner
    bn, copies = _width_and_copies(memory, tile)
    W = memory.block * copies
    folded = bn >= W
    R = _ceil(memory.numel, W)
    bm = tile // bn
    across, along = _ceil(W, bn), _ceil(R, bm)
    each = _turns_each(across * along, *(STATISTICS_OF_COLUMNS if statistics else ALONE))
    grid = (across, _ceil(along, each))
    return Launch(
        family="columns",
        grid=grid,
        arguments={
            "R": R,
            "W": W,
            "C": C,
            "S": S,
            "BM": bm,
            "BN": bn,
            "num_warps": 4,
        },
        forward_arguments={
            "HELD": _power_above(C if folded else _ceil(bn - 1, S) + 1),
            "RUN": _power_above(S * copies if folded else S),
            "FOLDED": folded,
            "THREADS": 4 * (32 if nvidia else 64),  # AMD's warps are twice as wide
        },
        parts=grid[1] * (1 if folded else copies if S == 1 else 2 * copies),
        waste=across * bn / W,
    )


@lru_cache(maxsize=4096)
def plan(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    channel_dim: int,
    *,
    statistics: bool = True,
    nvidia: bool = True,
    tile: int = TILE,
) -> Launch:
    """The launch for a dense, non-empty result of this shape and strides.

    Args:
        statistics: whether they are collected on the way.
        nvidia: whether it is compiled for NVIDIA: warps of 32, and approximate logarithm, sine and cosine instead of
            polynomials.
        tile: elements that a program handles in a turn of its loop, at most.
    """
    memory = memory_of(shape, strides, channel_dim)
    # Rows of a few elements fill their tiles badly. Columns fill them, but take longer to reduce the statistics.
    short = memory.inner <= MAX_COLUMNS and _rows(memory, TILE, statistics).waste > 1.1
    if memory.channels > 1 and (memory.inner == 1 or short):
        launch = _columns(memory, tile, statistics, nvidia)
    else:
        launch = _rows(memory, tile, statistics)
    launch.arguments.update(numel=memory.numel, RAGGED=memory.numel % GROUP != 0, FAST=nvidia, enable_fp_fusion=True)
    return launch


def registers(statistics: bool, nvidia: bool, walk: tuple[Any, ...]) -> dict[str, int]:
    """The compiler's limit, if any, for a forward kernel that reads x along this walk."""
    # An x that is not dense takes more for its addresses, and would spill.
    return {"maxnreg": REGISTERS} if statistics and nvidia and not walk else {}


@lru_cache(maxsize=4096)
def plan_pointwise(numel: int, tile: int = TILE) -> Launch:
    """The launch that visits so many elements in the order in which they lie."""
    programs = _ceil(numel, tile)
    return Launch(
        family="pointwise",
        grid=(programs,),
        arguments={
            "numel": numel,
            "RAGGED": numel % GROUP != 0,
            "BLOCK": tile,
            "num_warps": 4,
            "enable_fp_fusion": True,
        },
        forward_arguments={},
        parts=0,
        waste=programs * tile / numel,
    )
