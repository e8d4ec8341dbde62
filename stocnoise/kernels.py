"""The fused operation through the Triton kernels in `kernels/`; imported only where Triton is installed.

The same four functions as `stocnoise.aten`, for CUDA and ROCm tensors, and for CPU tensors under TRITON_INTERPRET=1.

Every input is read where it lies, whatever its strides, and never copied: see `walk`. Loads are whole vectors where
memory holds x in pieces of eight elements.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from stocnoise import aten
from stocnoise.activations import Activation, Operation

# This makes the module a package, of what lies in `kernels/`: in the package where it is installed, else beside it.
__path__ = [str(place / "kernels") for place in Path(__file__).parents[:2]]

from stocnoise.kernels.columns import columns_backward, columns_forward
from stocnoise.kernels.launch import INTERPRETED_TILE, TILE, Launch, plan, plan_pointwise
from stocnoise.kernels.layout import strides_in_row, walk_of
from stocnoise.kernels.moments import merge_parts, move_sigma
from stocnoise.kernels.pointwise import pointwise_backward
from stocnoise.kernels.rows import rows_backward, rows_forward

__all__ = ["backward", "backward_from_output", "forward", "update_sigma"]


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be x's; the interpreter's NumPy warns of inf − inf."""
    if not x.is_cuda:
        return np.errstate(all="ignore")
    if x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


def _launch(result: Tensor, channel_dim: int) -> Launch:
    return plan(
        tuple(result.shape),
        result.stride(),
        channel_dim,
        fast=result.is_cuda and torch.version.hip is None,
        tile=TILE if result.is_cuda else INTERPRETED_TILE,
    )


def _walk(result: Tensor, source: Tensor) -> tuple[Any, ...]:
    return walk_of(tuple(result.shape), source.stride(), result.stride())


def _noise_walk(result: Tensor, shared: bool) -> tuple[Any, ...]:
    """Noise is counted along the memory of the result, if shared along that of a single row."""
    if not shared:
        return ()
    shape, strides = tuple(result.shape), result.stride()
    return walk_of(shape, strides_in_row(shape, strides), strides)


def forward(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `stocnoise.aten.forward`."""
    y = torch.empty_like(x)
    channels = x.shape[operation.channel_dim]
    if x.numel() == 0:
        return y, torch.zeros(3, channels if statistics else 0, device=x.device), gamma.sqrt() * sigma
    launch = _launch(y, operation.channel_dim)
    scale = torch.empty_like(sigma)
    parts = torch.empty(4, launch.parts if statistics else 0, channels, device=x.device)
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
            walk=_walk(y, x),
            noise_walk=_noise_walk(y, operation.shared),
            slope=operation.activation.slope,
            ACTIVATION=operation.activation.name,
            STATISTICS=statistics,
            **launch.arguments,
            **launch.forward_arguments,
        )
        if statistics:
            # Not by the number of parts, which follows the batch size: that would compile again.
            block_c, block_q = (8, 256) if x.is_cuda else (64, 1024)
            merge_parts[(triton.cdiv(channels, block_c),)](
                parts,
                moments,
                channels,
                launch.parts,
                BLOCK_C=block_c,
                BLOCK_Q=block_q,
                num_warps=8,
                enable_fp_fusion=True,
            )
    return y, moments, scale


def backward(grad: Tensor, x: Tensor, scale: Tensor, seed: Tensor, operation: Operation) -> Tensor:
    """See `stocnoise.aten.backward`."""
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    launch = _launch(dx, operation.channel_dim)
    kernel = rows_backward if launch.family == "rows" else columns_backward
    with _on_device_of(x):
        kernel[launch.grid](
            grad,
            x,
            dx,
            scale,
            seed,
            grad_walk=_walk(dx, grad),
            walk=_walk(dx, x),
            noise_walk=_noise_walk(dx, operation.shared),
            slope=operation.activation.slope,
            ACTIVATION=operation.activation.name,
            **launch.arguments,
        )
    return dx


def backward_from_output(grad: Tensor, y: Tensor, activation: Activation) -> Tensor:
    """See `stocnoise.aten.backward_from_output`."""
    if grad.stride() != y.stride() or y.numel() == 0:
        return aten.backward_from_output(grad, y, activation)  # reads any strides
    dx = torch.empty_like(y)
    launch = plan_pointwise(y.numel(), TILE if y.is_cuda else INTERPRETED_TILE)
    with _on_device_of(y):
        pointwise_backward[launch.grid](
            grad, y, dx, slope=activation.slope, ACTIVATION=activation.name, **launch.arguments
        )
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
