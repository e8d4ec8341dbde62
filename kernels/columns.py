"""Kernels for channels-last, and for rows of a few elements: a matrix whose columns each belong to one channel.

Row r of the matrix is m·C·S consecutive elements, a multiple of 8: for channels-last S = 1, and m > 1 where C alone
would not fill a tile or is not a multiple of 8. Column j is of channel (j // S) mod C.
"""

import triton
import triton.language as tl

from .activation import activate, derivative
from .moments import store_part
from .noise import noise
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
def _tile(start, W, BM: tl.constexpr, BN: tl.constexpr):
    """From row `start`: the rows (BM, 1), groups (BM, BN/8) and element indices (BM, BN), int64."""
    r = start + tl.arange(0, BM)[:, None]
    row = r.to(tl.int64) * (W // 8)
    left = tl.program_id(0) * (BN // 8)
    group = row + left + tl.arange(0, BN // 8)[None, :]
    index = (row + left) * 8 + tl.arange(0, BN)[None, :]
    return r, group, index


@triton.jit(do_not_specialize=_COUNTS)
def columns_forward(
    x_ptr,  # (R, W), where `walk` leads; the last row may be a part of one
    y_ptr,  # (R, W), dense
    parts_ptr,  # (4, C, Q) float32, written: Q = W / C · the grid's programs for a column
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
    FAST: tl.constexpr,
):
    """y = h(x + noise), and the statistics of x. Grid: (⌈W / BN⌉, parts of R)."""
    r_first = tl.program_id(1) * r_each
    r_last = tl.minimum(r_first + r_each, R)
    j, end, element_end = _columns(numel, W, r_last, BN)
    seed = tl.load(seed_ptr)
    channel = j // S % C
    scale = tl.sqrt(tl.load(gamma_ptr)) * tl.load(sigma_ptr + channel)
    if tl.program_id(1) == 0:
        tl.store(scale_ptr + channel, scale, mask=j < C * S)

    if STATISTICS:
        p_pivot = x_ptr + place_of_elements(r_first * tl.cast(W, tl.int64) + j, numel, walk)
        pivot = tl.load(p_pivot, mask=r_first < element_end, other=0.0).to(tl.float32)
        sum_d = tl.zeros((BM, BN), tl.float32)
        sum_dd = tl.zeros((BM, BN), tl.float32)

    for start in range(r_first, r_last, BM):
        r, group, index = _tile(start, W, BM, BN)
        mask = r < end[None, :]
        if RAGGED:
            mask = mask & (index < numel)
        x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0).to(tl.float32)
        z = noise(seed, group, index, numel, noise_walk, FAST)
        y = activate(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), mask=mask)
        if STATISTICS:
            d = tl.where(mask, x - pivot[None, :], 0.0)
            sum_d += d
            sum_dd += d * d

    if STATISTICS:
        copies = W // (C * S)
        parts = tl.num_programs(1)
        slot = ((channel * S + j % S).to(tl.int64) * copies + j // (C * S)) * parts + tl.program_id(1)
        size = tl.cast(W, tl.int64) * parts
        count = tl.maximum(element_end - r_first, 0).to(tl.float32)
        store_part(parts_ptr, slot, size, count, pivot, tl.sum(sum_d, 0), tl.sum(sum_dd, 0), j < W)


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
    r_first = tl.program_id(1) * r_each
    r_last = tl.minimum(r_first + r_each, R)
    j, end, _ = _columns(numel, W, r_last, BN)
    seed = tl.load(seed_ptr)
    scale = tl.load(scale_ptr + j // S % C)

    for start in range(r_first, r_last, BM):
        r, group, index = _tile(start, W, BM, BN)
        mask = r < end[None, :]
        if RAGGED:
            mask = mask & (index < numel)
        x = tl.load(x_ptr + place_of_elements(index, numel, walk), mask=mask, other=0.0).to(tl.float32)
        p_grad = grad_ptr + place_of_elements(index, numel, grad_walk)
        grad = tl.load(p_grad, mask=mask, other=0.0).to(tl.float32)
        z = noise(seed, group, index, numel, noise_walk, FAST)
        dx = grad * derivative(tl.fma(z, scale[None, :], x), slope, ACTIVATION, FAST)
        tl.store(dx_ptr + index, dx.to(dx_ptr.dtype.element_ty), mask=mask)
