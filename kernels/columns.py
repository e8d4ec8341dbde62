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
_COUNTS = ["R", "W", "C", "S", "numel"]


@triton.constexpr_function
def rows_of_a_thread(BM, BN, PIECE, THREADS):
    """How many rows of a tile one thread holds, each a vector of PIECE elements."""
    return min(BM, max(1, BM * BN // (THREADS * PIECE)))


@triton.jit
def _columns(numel, W, BN: tl.constexpr):
    """The program's columns j (BN,), and the row before which each ends, for whole groups and for elements.

    The last row may be a part of one: then its columns end one row earlier.
    """
    full = (numel // W).to(tl.int32)
    tail = (numel % W).to(tl.int32)
    j = tl.program_id(0) * BN + tl.arange(0, BN)
    first = j // 8 * 8
    by_group = tl.where(first < W, full + (first < tail).to(tl.int32), 0)
    by_element = tl.where(j < W, full + (j < tail).to(tl.int32), 0)
    return j, by_group, by_element


@triton.jit
def _tile(start, W, end, numel, RAGGED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PIECE: tl.constexpr):
    """From row `start`: pieces (BM, BN/PIECE) and element indices (BM, BN), int64, and which of them there are."""
    r = start + tl.arange(0, BM)[:, None]
    row = r.to(tl.int64) * (W // PIECE)
    left = tl.program_id(0) * (BN // PIECE)
    piece = row + left + tl.arange(0, BN // PIECE)[None, :]
    index = (row + left) * PIECE + tl.arange(0, BN)[None, :]
    mask = r < end[None, :]
    if RAGGED:
        mask = mask & (index < numel)
    return piece, index, mask


@triton.jit
def _load(
    x_ptr, start, W, end, numel, walk, RAGGED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PIECE: tl.constexpr
):
    """The tile of x from row `start` (BM, BN), in its own type; 0 where there is none."""
    _, index, mask = _tile(start, W, end, numel, RAGGED, BM, BN, PIECE)
    return tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0)


@triton.jit
def _rows_before(end, BM: tl.constexpr):
    """Of the rows before `end` (BN,) those in tiles of this program: all of these but the last are whole."""
    p, programs = tl.program_id(1), tl.num_programs(1)
    whole = end // BM
    mine = tl.cdiv(tl.maximum(whole - p, 0), programs)
    return mine * BM + tl.where(whole % programs == p, end % BM, 0)


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
    slope,
    ACTIVATION: tl.constexpr,
    STATISTICS: tl.constexpr,
    RAGGED: tl.constexpr,  # numel is not
    BM: tl.constexpr,
    BN: tl.constexpr,
    HELD: tl.constexpr,  # runs in a tile, at most
    RUN: tl.constexpr,  # columns of a run, at least
    FOLDED: tl.constexpr,  # a tile is a whole row, its runs all columns of a channel
    THREADS: tl.constexpr,  # of a program
    FAST: tl.constexpr,
):
    """y = h(x + noise), and the statistics of x. Grid: (⌈W / BN⌉, parts of R)."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    # Programs that run at the same time take tiles side by side: memory is read and written in one moving window.
    r_first, r_step = tl.program_id(1) * BM, tl.num_programs(1) * BM
    j, end, element_end = _columns(numel, W, BN)
    seed = tl.load(seed_ptr)
    channel = j // S % C
    scale = tl.sqrt(tl.load(gamma_ptr)) * tl.load(sigma_ptr + channel)
    if tl.program_id(1) == 0:
        tl.store(scale_ptr + channel, scale, mask=j < C * S)

    if STATISTICS:
        pivot = _pivot(x_ptr, r_first, channel, W, S, numel, walk)
        # Rows of one thread are added up in each turn, lest each have accumulators of its own.
        DEPTH: tl.constexpr = rows_of_a_thread(BM, BN, PIECE, THREADS)
        sum_d = tl.zeros((BM // DEPTH, BN), tl.float32)
        sum_dd = tl.zeros((BM // DEPTH, BN), tl.float32)

    following = _load(x_ptr, r_first, W, end, numel, walk, RAGGED, BM, BN, PIECE)
    for start in range(r_first, R, r_step):
        x = following.to(tl.float32)
        # On its way while the noise of this tile is made.
        following = _load(x_ptr, start + r_step, W, end, numel, walk, RAGGED, BM, BN, PIECE)
        piece, index, mask = _tile(start, W, end, numel, RAGGED, BM, BN, PIECE)
        z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
        y = activate(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), mask=mask)
        if STATISTICS:
            d = tl.where(mask, x - pivot[None, :], 0.0)
            d = tl.reshape(d, (DEPTH, BM // DEPTH, BN))
            sum_d += tl.sum(d, 0)
            sum_dd += tl.sum(d * d, 0)

    if STATISTICS:
        length = _rows_before(element_end, BM).to(tl.float32)
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
    slope,
    ACTIVATION: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    FAST: tl.constexpr,
):
    """dx = grad · h′(x + noise), the noise drawn again. Arguments and grid as in `columns_forward`."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    r_first, r_step = tl.program_id(1) * BM, tl.num_programs(1) * BM
    j, end, _ = _columns(numel, W, BN)
    seed = tl.load(seed_ptr)
    scale = tl.load(scale_ptr + j // S % C)

    for start in range(r_first, R, r_step):
        piece, index, mask = _tile(start, W, end, numel, RAGGED, BM, BN, PIECE)
        x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0).to(tl.float32)
        p_grad = grad_ptr + place_of_elements(index, numel, grad_walk)
        grad = tl.load(p_grad, mask=mask, other=0.0).to(tl.float32)
        z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
        dx = grad * derivative(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(dx_ptr + index, dx.to(dx_ptr.dtype.element_ty), mask=mask)
