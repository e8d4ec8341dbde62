"""Triton kernels of the fused operation; imported as `stocnoise.kernels`, and only where Triton is installed.

The same four functions as `stocnoise.aten`, for CUDA and ROCm tensors, and for CPU tensors under TRITON_INTERPRET=1.

Dense inputs, however permuted, and slices of the batch or of channels are read as they are. Others (expanded, every
second column, see `layout.gap_of`) are gathered into the memory of the result, where the kernel then runs in place;
with statistics, into a buffer, since there programs read elements that others overwrite. Noise shared by the rows x[i]
needs each of them in one piece: where they are interleaved in memory, they are copied so.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import triton
from torch import Tensor

from stocnoise import aten

from .columns import columns_backward, columns_forward
from .launch import INTERPRETED_TILE, TILE, Launch, plan, plan_pointwise
from .layout import GROUP, gap_of
from .moments import merge_parts, move_sigma
from .pointwise import pointwise_backward
from .rows import rows_backward, rows_forward

__all__ = ["backward", "backward_from_output", "forward", "update_sigma"]


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be x's; the interpreter's NumPy warns of inf − inf."""
    if not x.is_cuda:
        return np.errstate(all="ignore")
    if x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


def _launch(result: Tensor, channel_dim: int, strided: bool, shared: bool) -> Launch:
    return plan(
        tuple(result.shape),
        result.stride(),
        channel_dim,
        strided=strided,
        shared=shared,
        fast=result.is_cuda and torch.version.hip is None,
        tile=TILE if result.is_cuda else INTERPRETED_TILE,
    )


def _rows_are_blocks(x: Tensor) -> bool:
    """Whether each x[i] lies together in a dense tensor of x's layout, as noise shared by all rows requires."""
    return x.shape[0] == 1 or x.stride(0) * x.shape[0] == x.numel()


def _in_row_blocks(x: Tensor) -> Tensor:
    """x copied so that each x[i] lies together, its elements in the order that they have in x."""
    order = [0, *sorted(range(1, x.dim()), key=lambda d: -x.stride(d))]
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


def forward(
    x: Tensor,
    sigma: Tensor,
    gamma: Tensor,
    seed: Tensor,
    activation: str,
    slope: float,
    channel_dim: int,
    statistics: bool,
    shared: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `stocnoise.aten.forward`."""
    y = torch.empty_like(x)
    channels = x.shape[channel_dim]
    if x.numel() == 0:
        return y, torch.zeros(3, channels if statistics else 0, device=x.device), gamma.sqrt() * sigma
    if shared and not _rows_are_blocks(y):
        x = _in_row_blocks(x)
        result, *rest = forward(x, sigma, gamma, seed, activation, slope, channel_dim, statistics, shared)
        return y.copy_(result), *rest
    gap = gap_of(tuple(x.shape), x.stride(), y.stride(), channel_dim)
    if gap is None:
        x, gap = (torch.empty_like(y) if statistics else y).copy_(x), 0
    launch = _launch(y, channel_dim, gap > 0, shared)
    scale = torch.empty_like(sigma)
    parts = torch.empty(4, channels, launch.parts if statistics else 0, device=x.device)
    moments = torch.empty(3, channels if statistics else 0, device=x.device)
    kernel = rows_forward if launch.family == "rows" else columns_forward
    with _on_device_of(x):
        kernel[launch.grid](
            x,
            y,
            parts,
            scale,
            sigma,
            gamma,
            seed,
            gap8=gap // GROUP,
            slope=slope,
            ACTIVATION=activation,
            STATISTICS=statistics,
            **launch.arguments,
        )
        if statistics:
            # Not by the number of parts, which follows the batch size: that would compile again.
            block_c, block_q = (4, 256) if x.is_cuda else (64, 1024)
            merge_parts[(triton.cdiv(channels, block_c),)](
                parts, moments, channels, launch.parts, BLOCK_C=block_c, BLOCK_Q=block_q, enable_fp_fusion=True
            )
    return y, moments, scale


def backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    seed: Tensor,
    activation: str,
    slope: float,
    channel_dim: int,
    shared: bool,
) -> Tensor:
    """See `stocnoise.aten.backward`."""
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    if shared and not _rows_are_blocks(dx):
        x = _in_row_blocks(x)
        return dx.copy_(backward(grad, x, scale, seed, activation, slope, channel_dim, shared))
    gap = gap_of(tuple(x.shape), x.stride(), dx.stride(), channel_dim)
    grad_gap = gap_of(tuple(x.shape), grad.stride(), dx.stride(), channel_dim)
    if grad_gap is None:
        # Both at once can only be gathered with a buffer more.
        grad, grad_gap = (dx if gap is not None else torch.empty_like(dx)).copy_(grad), 0
    if gap is None:
        x, gap = dx.copy_(x), 0
    launch = _launch(dx, channel_dim, gap > 0 or grad_gap > 0, shared)
    kernel = rows_backward if launch.family == "rows" else columns_backward
    with _on_device_of(x):
        kernel[launch.grid](
            grad,
            x,
            dx,
            scale,
            seed,
            grad_gap8=grad_gap // GROUP,
            gap8=gap // GROUP,
            slope=slope,
            ACTIVATION=activation,
            **launch.arguments,
        )
    return dx


def backward_from_output(grad: Tensor, y: Tensor, activation: str, slope: float) -> Tensor:
    """See `stocnoise.aten.backward_from_output`."""
    if grad.stride() != y.stride() or y.numel() == 0:
        return aten.backward_from_output(grad, y, activation, slope)  # reads any strides
    dx = torch.empty_like(y)
    launch = plan_pointwise(y.numel(), TILE if y.is_cuda else INTERPRETED_TILE)
    with _on_device_of(y):
        pointwise_backward[launch.grid](grad, y, dx, slope=slope, ACTIVATION=activation, **launch.arguments)
    return dx


def update_sigma(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    """See `stocnoise.aten.update_sigma`."""
    parts, _, channels = moments.shape
    with _on_device_of(sigma):
        move_sigma[(1,)](
            sigma,
            before,
            batches,
            moments.contiguous(),
            channels,
            parts,
            alpha,
            BLOCK=min(1024, triton.next_power_of_2(channels)),
            enable_fp_fusion=True,
        )
