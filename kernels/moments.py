"""Statistics of a channel: what a program leaves behind, how parts merge, and how σ moves.

Within a program: float32 sums of d = x − pivot and of d², the pivot an element of that program's own share, so that
|mean| ≫ std costs nothing. Between programs: Chan's formula (Chan, Golub, LeVeque 1983) for all parts at once, in
float64 and in a fixed order: the same input gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def store_part(parts_ptr, slot, size, count, pivot, sum_d, sum_dd, mask):
    """Store count, pivot, mean − pivot and M2, float32, in the four planes of `size` elements at `slot`.

    Pivot and mean − pivot stay apart: in float32 their sum would lose 3e-3 of a std at mean 1000, std 0.01.
    """
    some = tl.maximum(count, 1.0)
    offset = sum_d / some
    tl.store(parts_ptr + slot, count, mask=mask)
    tl.store(parts_ptr + size + slot, pivot, mask=mask)
    tl.store(parts_ptr + 2 * size + slot, offset, mask=mask)
    tl.store(parts_ptr + 3 * size + slot, sum_dd - sum_d * offset, mask=mask)


@triton.jit(do_not_specialize=["C", "Q"])
def merge_parts(
    parts_ptr,  # (4, Q, C) float32: count, pivot, mean − pivot, M2 of Q parts of each channel
    moments_ptr,  # (3, C) float32, written: count, mean, M2
    C,
    Q,
    BLOCK_C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Merge the parts of BLOCK_C channels. Grid: (⌈C / BLOCK_C⌉,)."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < C
    size = C.to(tl.int64) * Q
    # Means are taken relative to the first part's pivot, which makes one pass enough.
    centre = tl.load(parts_ptr + size + c, mask=real, other=0.0).to(tl.float64)
    count = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)
    first = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)
    second = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)
    for start in range(0, Q, BLOCK_Q):
        q = start + tl.arange(0, BLOCK_Q)
        mask = (q < Q)[:, None] & real[None, :]
        p_part = parts_ptr + q.to(tl.int64)[:, None] * C + c[None, :]
        n = tl.load(p_part, mask=mask, other=0.0).to(tl.float64)
        pivot = tl.load(p_part + size, mask=mask, other=0.0).to(tl.float64)
        delta = tl.load(p_part + 2 * size, mask=mask, other=0.0).to(tl.float64)
        m2 = tl.load(p_part + 3 * size, mask=mask, other=0.0).to(tl.float64)
        mean = tl.where(n > 0, pivot - centre[None, :] + delta, 0.0)
        count += n
        first += n * mean
        second += m2 + n * mean * mean
    n = tl.sum(count, 0)
    offset = tl.sum(first, 0) / tl.maximum(n, 1.0)
    m2 = tl.sum(second, 0) - n * offset * offset
    tl.store(moments_ptr + c, n.to(tl.float32), mask=real)
    tl.store(moments_ptr + C + c, (centre + offset).to(tl.float32), mask=real)
    tl.store(moments_ptr + 2 * C + c, tl.where(m2 < 0.0, 0.0, m2).to(tl.float32), mask=real)


@triton.jit(do_not_specialize=["C", "W"])
def move_sigma(
    sigma_ptr,  # (C,) float32, updated
    before_ptr,  # (C,) float32, written: σ from before
    batches_ptr,  # 0-dim int64, updated
    moments_ptr,  # (W, 3, C) float32
    C,
    W,
    alpha,
    BLOCK: tl.constexpr,
):
    """σ ← (1−α)·σ + α·STD of the W parts merged; a channel whose STD is not finite keeps its σ. Grid: (1,).

    One program for all channels: only so is "any channel was finite" known without another launch.
    """
    any_seen = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        real = c < C
        n = tl.zeros((BLOCK,), tl.float64)
        mean = tl.zeros((BLOCK,), tl.float64)
        m2 = tl.zeros((BLOCK,), tl.float64)
        for w in range(W):
            p_rank = moments_ptr + w * 3 * C + c
            n_w = tl.load(p_rank, mask=real, other=0.0).to(tl.float64)
            mean_w = tl.load(p_rank + C, mask=real, other=0.0).to(tl.float64)
            m2_w = tl.load(p_rank + 2 * C, mask=real, other=0.0).to(tl.float64)
            total = n + n_w
            share = tl.where(total > 0, n_w / tl.maximum(total, 1.0), 0.0)
            delta = mean_w - mean
            mean += delta * share
            m2 += m2_w + delta * delta * n * share
            n = total
        # A single element has no STD: 0/0, not finite, as in `torch.std`.
        std = tl.sqrt(tl.where(n > 1, m2 / tl.maximum(n - 1, 1.0), float("nan")))
        seen = real & (std < float("inf"))
        sigma = tl.load(sigma_ptr + c, mask=real, other=0.0)
        moved = (1.0 - alpha) * sigma + alpha * std.to(tl.float32)
        tl.store(before_ptr + c, sigma, mask=real)
        tl.store(sigma_ptr + c, tl.where(seen, moved, sigma), mask=real)
        any_seen = tl.maximum(any_seen, seen.to(tl.int32))
    tl.store(batches_ptr, tl.load(batches_ptr) + tl.max(any_seen, 0))
