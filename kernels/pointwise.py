"""The backward pass of activations whose derivative y decides: element by element, in whatever order they lie."""

import triton
import triton.language as tl

from .activation import times_derivative_at_output


@triton.jit(do_not_specialize=["numel"])
def pointwise_backward(
    grad_ptr,  # numel elements, dense
    y_ptr,  # likewise, in the same order
    dx_ptr,  # likewise
    numel,
    slope,
    ACTIVATION: tl.constexpr,
    RAGGED: tl.constexpr,  # numel is not a multiple of 8
    BLOCK: tl.constexpr,
):
    """dx = grad · h′, read off y = h(x + noise): the noise is not drawn again. Grid: (⌈numel / BLOCK⌉,)."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    left = tl.minimum(numel - start, BLOCK).to(tl.int32)
    # By whole groups where that is enough, or loads and stores would not be vectors.
    mask = lane < left if RAGGED else lane // 8 * 8 < left
    y = tl.load(y_ptr + start + lane, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + start + lane, mask=mask, other=0.0)
    tl.store(dx_ptr + start + lane, times_derivative_at_output(grad, y, slope, ACTIVATION), mask=mask)
