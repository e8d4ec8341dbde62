"""Kernels for channels-last, and for rows of a few elements: a matrix whose columns each belong to one channel.

Row r of the matrix is m·C·S consecutive elements, a multiple of 8: for channels-last S = 1, and m > 1 where C alone
would not fill tiles or is not a multiple of 8. Run i is the S columns from i·S on, which are of channel i mod C.
"""

import triton
import triton.language as tl

from .activation import activate, derivative
from .moments import store_part
from .noise import noise, piece_of
from .walk import place_of_elements

# Left to itself Triton compiles again for a count of 1 and for every multiple of 16.
_COUNTS = ["R", "W", "C", "S", "numel", "r_each"]


@triton.jit
def _columns(numel, W, r_last, BN: tl.constexpr):
    """The program's columns j (BN,), and the row before which each ends, for whole groups and for elements.

    The last row may be a part of one: then its columns end one row earlier.
    """
    full = (numel // W).to(tl.int32)
    tail = (numel % W).to(tl.int32)
    j = tl.program_id(0) * BN + tl.arange(0, BN)
    first = j // 8 * 8
    by_group = tl.where(first < W, tl.minimum(r_last, full + (first < tail).to(tl.int32)), 0)
    by_element = tl.where(j < W, tl.minimum(r_last, full + (j < tail).to(tl.int32)), 0)
    return j, by_group, by_element


@triton.jit
def _tile(start, W, BM: tl.constexpr, BN: tl.constexpr, PIECE: tl.constexpr):
    """From row `start`: the rows (BM, 1), pieces (BM, BN/PIECE) and element indices (BM, BN), int64."""
    r = start + tl.arange(0, BM)[:, None]
    row = r.to(tl.int64) * (W // PIECE)
    left = tl.program_id(0) * (BN // PIECE)
    piece = row + left + tl.arange(0, BN // PIECE)[None, :]
    index = (row + left) * PIECE + tl.arange(0, BN)[None, :]
    return r, piece, index


@triton.jit
def _columns_of_runs(W, C, S, BN: tl.constexpr, HELD: tl.constexpr, RUN: tl.constexpr, FOLDED: tl.constexpr):
    """For RUN places of each of HELD runs, (RUN·HELD,): the column there, counted in the tile, and whether it exists.

    FOLDED, where the tile is the whole row, run i < C goes on with those of its channel in the other copies.
    """
    left = tl.program_id(0) * BN
    place = tl.arange(0, HELD * RUN)
    run, within = left // S + place % HELD, place // HELD
    column = run * S + within - left
    if FOLDED:
        column = run * S + within % S + within // S * (C * S)
        real = run < C
    else:
        real = (within < S) & (column >= 0)
    return column, real & (column < tl.minimum(W - left, BN))


@triton.jit
def _sum_of_runs(values, column, real, HELD: tl.constexpr, RUN: tl.constexpr):
    """Of values (BN,) the sum over each run, (HELD,)."""
    picked = tl.gather(values, tl.where(real, column, 0), 0)
    return tl.sum(tl.reshape(tl.where(real, picked, 0.0), (RUN, HELD)), 0)


@triton.jit
def _store_parts(
    x_ptr,
    parts_ptr,
    length,  # (BN,): rows of each column, float32
    sum_d,  # (BN,)
    sum_dd,  # (BN,)
    r_first,
    W,
    C,
    S,
    numel,
    walk,
    BN: tl.constexpr,
    HELD: tl.constexpr,
    RUN: tl.constexpr,
    FOLDED: tl.constexpr,
):
    """A part for each run in the tile: by column, stores would be S·m times as many."""
    left = tl.program_id(0) * BN
    run = left // S + tl.arange(0, HELD)
    channel = run % C
    if RUN > 1:
        column, real = _columns_of_runs(W, C, S, BN, HELD, RUN, FOLDED)
        length = _sum_of_runs(length, column, real, HELD, RUN)
        sum_d = _sum_of_runs(sum_d, column, real, HELD, RUN)
        sum_dd = _sum_of_runs(sum_dd, column, real, HELD, RUN)
    mask = run < (C if FOLDED else tl.minimum(W, left + BN + S - 1) // S)
    pivot = _pivot(x_ptr, r_first, channel, W, S, numel, walk)
    part = run // C
    programs = tl.num_programs(1)
    if RUN > 1 and not FOLDED:
        # A run may end in the next tile: it has two parts, of which one that lies in one tile leaves the second empty.
        begins, ends = run * S >= left, run * S + S <= left + BN
        size = tl.cast(W // S * 2, tl.int64) * programs
        empty = tl.zeros((HELD,), tl.float32)
        slot = ((2 * part + 1) * programs + tl.program_id(1)).to(tl.int64) * C + channel
        store_part(parts_ptr, slot, size, empty, pivot, empty, empty, mask & begins & ends)
        part = tl.where(begins, 2 * part, 2 * part + 1)
    elif FOLDED:
        size = tl.cast(C, tl.int64) * programs
    else:
        size = tl.cast(W, tl.int64) * programs
    slot = (part * programs + tl.program_id(1)).to(tl.int64) * C + channel
    store_part(parts_ptr, slot, size, length, pivot, sum_d, sum_dd, mask)


@triton.jit
def _pivot(x_ptr, r_first, channel, W, S, numel, walk):
    """The first element of a channel in the program's first row: one for all its columns, so that their sums add up."""
    index = r_first * tl.cast(W, tl.int64) + channel * S
    return tl.load(x_ptr + place_of_elements(index, numel, walk)).to(tl.float32)


@triton.jit(do_not_specialize=_COUNTS)
def columns_forward(
    x_ptr,  # (R, W), where `walk` leads; the last row may be a part of one
    y_ptr,  # (R, W), dense
    parts_ptr,  # (4, Q, C) float32, written: Q the grid's programs for a column · the parts of a channel in each row
    scale_ptr,  # (C,) float32, written: √γ·σ
    sigma_ptr,  # (C,) float32
    gamma_ptr,  # 0-dim float32
    seed_ptr,  # (1,) int64
    R,
    W,
    C,
    S,
    numel,
    walk,  # from y to x, see `walk.py`
    noise_walk,  # from y to the noise
    r_each,  # rows for a program
    slope,
    ACTIVATION: tl.constexpr,
    STATISTICS: tl.constexpr,
    RAGGED: tl.constexpr,  # numel is not
    BM: tl.constexpr,
    BN: tl.constexpr,
    HELD: tl.constexpr,  # runs in a tile, at most
    RUN: tl.constexpr,  # columns of a run, at least
    FOLDED: tl.constexpr,  # a tile is a whole row, its runs all columns of a channel
    FAST: tl.constexpr,
):
    """y = h(x + noise), and the statistics of x. Grid: (⌈W / BN⌉, parts of R)."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    r_first = tl.program_id(1) * r_each
    r_last = tl.minimum(r_first + r_each, R)
    j, end, element_end = _columns(numel, W, r_last, BN)
    seed = tl.load(seed_ptr)
    channel = j // S % C
    scale = tl.sqrt(tl.load(gamma_ptr)) * tl.load(sigma_ptr + channel)
    if tl.program_id(1) == 0:
        tl.store(scale_ptr + channel, scale, mask=j < C * S)

    if STATISTICS:
        pivot = _pivot(x_ptr, r_first, channel, W, S, numel, walk)
        sum_d = tl.zeros((BM, BN), tl.float32)
        sum_dd = tl.zeros((BM, BN), tl.float32)

    for start in range(r_first, r_last, BM):
        r, piece, index = _tile(start, W, BM, BN, PIECE)
        mask = r < end[None, :]
        if RAGGED:
            mask = mask & (index < numel)
        x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0).to(tl.float32)
        z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
        y = activate(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), mask=mask)
        if STATISTICS:
            d = tl.where(mask, x - pivot[None, :], 0.0)
            sum_d += d
            sum_dd += d * d

    if STATISTICS:
        length = tl.maximum(element_end - r_first, 0).to(tl.float32)
        sum_d, sum_dd = tl.sum(sum_d, 0), tl.sum(sum_dd, 0)
        _store_parts(
            x_ptr, parts_ptr, length, sum_d, sum_dd, r_first, W, C, S, numel, walk, BN, HELD, RUN, FOLDED
        )  # fmt: skip


@triton.jit(do_not_specialize=_COUNTS)
def columns_backward(
    grad_ptr,  # (R, W), where `grad_walk` leads
    x_ptr,  # (R, W), where `walk` leads
    dx_ptr,  # (R, W), dense
    scale_ptr,  # (C,) float32: √γ·σ
    seed_ptr,  # (1,) int64
    R,
    W,
    C,
    S,
    numel,
    grad_walk,
    walk,
    noise_walk,
    r_each,
    slope,
    ACTIVATION: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    FAST: tl.constexpr,
):
    """dx = grad · h′(x + noise), the noise drawn again. Arguments and grid as in `columns_forward`."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    r_first = tl.program_id(1) * r_each
    r_last = tl.minimum(r_first + r_each, R)
    j, end, _ = _columns(numel, W, r_last, BN)
    seed = tl.load(seed_ptr)
    scale = tl.load(scale_ptr + j // S % C)

    for start in range(r_first, r_last, BM):
        r, piece, index = _tile(start, W, BM, BN, PIECE)
        mask = r < end[None, :]
        if RAGGED:
            mask = mask & (index < numel)
        x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0).to(tl.float32)
        p_grad = grad_ptr + place_of_elements(index, numel, grad_walk)
        grad = tl.load(p_grad, mask=mask, other=0.0).to(tl.float32)
        z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
        dx = grad * derivative(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(dx_ptr + index, dx.to(dx_ptr.dtype.element_ty), mask=mask)
