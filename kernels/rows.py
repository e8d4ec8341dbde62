"""Kernels for (N, C, …): the elements of a channel lie in rows of S consecutive elements, S = H·W.

A tile is KC channels by WIDTH elements of their rows. Where S is not a multiple of 8 the rows do not begin where groups
of eight do: then a tile begins at the group that holds its row's first element, a group belongs to the row in which it
begins, and its last elements may be the next channel's. That keeps every load, store and Philox call whole.
"""

import triton
import triton.language as tl

from .activation import activate, derivative
from .moments import store_part
from .noise import noise, piece_of
from .walk import place_of_elements

# Left to itself Triton compiles again for a count of 1 and for every multiple of 16.
_COUNTS = ["N", "C", "S", "numel", "k_each"]


@triton.jit
def _row_start(n, c, C, S, SHIFTED: tl.constexpr, STEADY: tl.constexpr):
    """Group in which row (n, c) begins, int64, and the place of its first element in that group."""
    if not SHIFTED:
        return (tl.cast(n, tl.int64) * C + c) * (S // 8), tl.zeros_like(c)
    if STEADY:
        # C·S is a multiple of 8: the place depends on the channel alone, and what follows from it leaves the loop.
        inner = c.to(tl.int64) * S
        return tl.cast(n, tl.int64) * (tl.cast(C, tl.int64) * S // 8) + inner // 8, (inner % 8).to(tl.int32)
    start = (tl.cast(n, tl.int64) * C + c) * S
    return start // 8, (start % 8).to(tl.int32)


@triton.jit
def _tile(
    n,
    k,
    c,
    C,
    S,
    numel,
    KC: tl.constexpr,
    WIDTH: tl.constexpr,
    SHIFTED: tl.constexpr,
    STEADY: tl.constexpr,
    RAGGED: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Tile k of rows (n, c): its pieces (KC, WIDTH/PIECE) and element indices (KC, WIDTH), int64; then three masks,
    what to load, what to store, and which elements are of channel c; and which are of channel c + 1."""
    row, shift = _row_start(n, c, C, S, SHIFTED, STEADY)
    done = tl.cast(k, tl.int64) * WIDTH
    lane = tl.arange(0, WIDTH)[None, :]
    first_piece = row[:, None] * (8 // PIECE) + tl.cast(k, tl.int64) * (WIDTH // PIECE)
    piece = first_piece + tl.arange(0, WIDTH // PIECE)[None, :]
    index = (row[:, None] * 8 + done) + lane

    real = (c < C)[:, None]
    room = tl.minimum(S - done, WIDTH + 8).to(tl.int32)
    first = lane // 8 * 8  # masks by whole groups, or loads and stores would not be vectors
    if SHIFTED:
        before = tl.minimum(done, 8).to(tl.int32)
        place = lane - shift[:, None]
        load = real & (first - shift[:, None] < room)
        store = load & (first - shift[:, None] >= -before)
        beyond = place >= room
        own = real & (place >= -before) & (place < room)
    else:
        load = real & (first < room)
        store = load
        own = load
        beyond = tl.full((KC, WIDTH), False, tl.int1)
    if RAGGED:
        load = load & (index < numel)
        store = store & (index < numel)
    return piece, index, load, store, own, beyond


@triton.jit
def _share(S, k_each, KC: tl.constexpr, WIDTH: tl.constexpr, SHIFTED: tl.constexpr):
    """Of what a program takes: its channels (KC,); the tile of each row with which it begins, and before which it
    ends; which of the parts of a row that is, and of how many.

    Programs that run at the same time take what lies side by side, and go on in blocks further on: memory is read and
    written in one moving window.
    """
    tiles = tl.cdiv(S + 7 * SHIFTED, WIDTH)
    k_parts = tl.cdiv(tiles, k_each)
    c = tl.program_id(0) // k_parts * KC + tl.arange(0, KC)
    k_part = tl.program_id(0) % k_parts
    k_first = k_part * k_each
    return c, k_first, tl.minimum(k_first + k_each, tiles), k_part, k_parts


@triton.jit(do_not_specialize=_COUNTS)
def rows_forward(
    x_ptr,  # (N, C, S), where `walk` leads
    y_ptr,  # (N, C, S), dense
    parts_ptr,  # (4, Q, C) float32, written: Q the grid's programs for a channel
    scale_ptr,  # (C,) float32, written: √γ·σ
    sigma_ptr,  # (C,) float32
    gamma_ptr,  # 0-dim float32
    seed_ptr,  # (1,) int64
    N,
    C,
    S,
    numel,
    walk,  # from y to x, see `walk.py`
    noise_walk,  # from y to the noise
    k_each,  # tiles of a row for a program
    slope,
    ACTIVATION: tl.constexpr,
    STATISTICS: tl.constexpr,
    SHIFTED: tl.constexpr,  # S is not
    STEADY: tl.constexpr,  # C·S is
    RAGGED: tl.constexpr,  # numel is not
    KC: tl.constexpr,
    WIDTH: tl.constexpr,
    FAST: tl.constexpr,
):
    """y = h(x + noise), and the statistics of x. Grid: (⌈C / KC⌉ · parts of a row, parts of N)."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    c, k_first, k_last, k_part, k_parts = _share(S, k_each, KC, WIDTH, SHIFTED)
    n_first, n_step = tl.program_id(1), tl.num_programs(1)
    seed = tl.load(seed_ptr)
    root = tl.sqrt(tl.load(gamma_ptr))
    scale = root * tl.load(sigma_ptr + c, mask=c < C, other=0.0)
    next_scale = scale
    if SHIFTED:
        next_scale = root * tl.load(sigma_ptr + (c + 1) % C, mask=c < C, other=0.0)
    if (n_first == 0) & (k_first == 0):
        tl.store(scale_ptr + c, scale, mask=c < C)

    if STATISTICS:
        first = n_first * (tl.cast(C, tl.int64) * S) + c.to(tl.int64) * S
        pivot = tl.load(x_ptr + place_of_elements(first, numel, walk), mask=c < C, other=0.0).to(tl.float32)
        # What one thread holds side by side is added up in each turn, the rest once, after the loop: one accumulator
        # for each element of the tile takes 25 registers more, a whole sum in each turn 13 to 24 instructions more.
        sum_d = tl.zeros((KC, WIDTH // PIECE), tl.float32)
        sum_dd = tl.zeros((KC, WIDTH // PIECE), tl.float32)

    for k in range(k_first, k_last):
        for n in range(n_first, N, n_step):
            piece, index, load, store, own, beyond = _tile(
                n, k, c, C, S, numel, KC, WIDTH, SHIFTED, STEADY, RAGGED, PIECE
            )
            x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=load, other=0.0).to(tl.float32)
            z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
            y = activate(tl.fma(z, tl.where(beyond, next_scale[:, None], scale[:, None]), x), slope, ACTIVATION, FAST)
            tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), mask=store)
            if STATISTICS:
                if SHIFTED:
                    d = tl.where(own, x - pivot[:, None], 0.0)
                else:
                    # What is not loaded is 0 and gets no pivot subtracted: chosen once a group, not once an element.
                    d = x - tl.where(own, pivot[:, None], 0.0)
                d = tl.reshape(d, (KC, WIDTH // PIECE, PIECE))
                sum_d += tl.sum(d, 2)
                sum_dd += tl.sum(d * d, 2)

    if STATISTICS:
        # Unless rows are STEADY a program takes whole rows, and the shift does not matter.
        _, shift = _row_start(n_first, c, C, S, SHIFTED and STEADY, STEADY)
        begin = tl.minimum(tl.maximum(tl.cast(k_first, tl.int64) * WIDTH - shift, 0), S)
        end = tl.minimum(tl.maximum(tl.cast(k_last, tl.int64) * WIDTH - shift, 0), S)
        count = ((end - begin) * tl.cdiv(N - n_first, n_step)).to(tl.float32)
        slot = (n_first * k_parts + k_part).to(tl.int64) * C + c
        size = tl.cast(C, tl.int64) * (n_step * k_parts)
        store_part(parts_ptr, slot, size, count, pivot, tl.sum(sum_d, 1), tl.sum(sum_dd, 1), c < C)


@triton.jit(do_not_specialize=_COUNTS)
def rows_backward(
    grad_ptr,  # (N, C, S), where `grad_walk` leads
    x_ptr,  # (N, C, S), where `walk` leads
    dx_ptr,  # (N, C, S), dense
    scale_ptr,  # (C,) float32: √γ·σ
    seed_ptr,  # (1,) int64
    N,
    C,
    S,
    numel,
    grad_walk,
    walk,
    noise_walk,
    k_each,
    slope,
    ACTIVATION: tl.constexpr,
    SHIFTED: tl.constexpr,
    STEADY: tl.constexpr,
    RAGGED: tl.constexpr,
    KC: tl.constexpr,
    WIDTH: tl.constexpr,
    FAST: tl.constexpr,
):
    """dx = grad · h′(x + noise), the noise drawn again. Arguments and grid as in `rows_forward`."""
    PIECE: tl.constexpr = piece_of(x_ptr.dtype.element_ty)
    c, k_first, k_last, _part, _parts = _share(S, k_each, KC, WIDTH, SHIFTED)
    n_first, n_step = tl.program_id(1), tl.num_programs(1)
    seed = tl.load(seed_ptr)
    scale = tl.load(scale_ptr + c, mask=c < C, other=0.0)
    next_scale = scale
    if SHIFTED:
        next_scale = tl.load(scale_ptr + (c + 1) % C, mask=c < C, other=0.0)

    for k in range(k_first, k_last):
        for n in range(n_first, N, n_step):
            piece, index, load, store, _, beyond = _tile(
                n, k, c, C, S, numel, KC, WIDTH, SHIFTED, STEADY, RAGGED, PIECE
            )
            x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=load, other=0.0).to(tl.float32)
            p_grad = grad_ptr + place_of_elements(index, numel, grad_walk)
            grad = tl.load(p_grad, mask=store, other=0.0).to(tl.float32)
            z = noise(seed, piece, index, numel, noise_walk, PIECE, FAST)
            dx = grad * derivative(
                tl.fma(z, tl.where(beyond, next_scale[:, None], scale[:, None]), x), slope, ACTIVATION, FAST
            )
            tl.store(dx_ptr + index, dx.to(dx_ptr.dtype.element_ty), mask=store)
