"""The fused operation through the Triton kernels in `kernels/`; imported only where Triton is installed.

The same four functions as `stocnoise.aten`, for CUDA and ROCm tensors, and for CPU tensors under TRITON_INTERPRET=1.

Every input is read where it lies, whatever its strides, and never copied: see `walk`. Loads are whole vectors where
memory holds x in pieces of eight elements.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from stocnoise import aten
from stocnoise.activations import Activation, Operation

# This makes the module a package, of what lies in `kernels/`: in the package where it is installed, else beside it.
__path__ = [str(place / "kernels") for place in Path(__file__).parents[:2]]

from stocnoise.kernels.columns import columns_backward, columns_forward
from stocnoise.kernels.launch import INTERPRETED_TILE, TILE, Launch, plan, plan_pointwise, registers
from stocnoise.kernels.layout import strides_in_row, walk_of
from stocnoise.kernels.moments import merge_parts, move_sigma
from stocnoise.kernels.pointwise import pointwise_backward
from stocnoise.kernels.rows import rows_backward, rows_forward
from stocnoise.kernels.start import Start, start

__all__ = ["backward", "backward_from_output", "forget", "forward", "update_sigma"]


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be x's; the interpreter's NumPy warns of inf − inf."""
    if not x.is_cuda:
        return np.errstate(all="ignore")
    if x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


Numbers = tuple[int, ...]


class _Forward(NamedTuple):
    main: Start
    parts: int
    merge: Start


class _Tensor(NamedTuple):
    """What a launch depends on of the tensor it writes; `device` is −1 on a CPU."""

    shape: Numbers
    strides: Numbers
    device: int

    @property
    def nvidia(self) -> bool:
        return self.device >= 0 and torch.version.hip is None

    def launch(self, channel_dim: int, statistics: bool, tile: int) -> Launch:
        return plan(self.shape, self.strides, channel_dim, statistics=statistics, nvidia=self.nvidia, tile=tile)

    def walk(self, strides: Numbers) -> tuple[Any, ...]:
        """To a tensor of the same shape and these strides."""
        return walk_of(self.shape, strides, self.strides)

    def noise_walk(self, shared: bool) -> tuple[Any, ...]:
        """Noise is counted along the memory of the result, if shared along that of a single row."""
        return self.walk(strides_in_row(self.shape, self.strides)) if shared else ()


def _written(result: Tensor) -> _Tensor:
    return _Tensor(result.shape, result.stride(), result.get_device())


def _tile(x: Tensor) -> int:
    return TILE if x.is_cuda else INTERPRETED_TILE


# Each result holds what Triton has compiled, so the arguments are all that this depends on, the tensors' types too.


@lru_cache(maxsize=4096)
def _forward(
    y: _Tensor, strides: Numbers, types: tuple[torch.dtype, ...], operation: Operation, statistics: bool, tile: int
) -> _Forward:
    launch = y.launch(operation.channel_dim, statistics, tile)
    kernel = rows_forward if launch.family == "rows" else columns_forward
    walk = y.walk(strides)
    named = {
        "walk": walk,
        "noise_walk": y.noise_walk(operation.shared),
        "slope": operation.activation.slope,
        "ACTIVATION": operation.activation.name,
        "STATISTICS": statistics,
        **registers(statistics, y.nvidia, walk),
    }
    main = start(kernel, launch.grid, named | launch.arguments | launch.forward_arguments)
    channels = y.shape[operation.channel_dim]
    # Not by the number of parts, which follows the batch size: that would compile again. Of eight such blocks this one
    # took the least time on an H100 where the parts are few, and near the least where they are thousands.
    block_c, block_q = (4, 256) if y.device >= 0 else (64, 1024)
    sizes = {"C": channels, "Q": launch.parts, "BLOCK_C": block_c, "BLOCK_Q": block_q}
    merge = start(merge_parts, (triton.cdiv(channels, block_c),), sizes | {"num_warps": 4, "enable_fp_fusion": True})
    return _Forward(main, launch.parts, merge)


@lru_cache(maxsize=4096)
def _backward(
    dx: _Tensor, grad: Numbers, strides: Numbers, types: tuple[torch.dtype, ...], operation: Operation, tile: int
) -> Start:
    launch = dx.launch(operation.channel_dim, False, tile)
    kernel = rows_backward if launch.family == "rows" else columns_backward
    named = {
        "grad_walk": dx.walk(grad),
        "walk": dx.walk(strides),
        "noise_walk": dx.noise_walk(operation.shared),
        "slope": operation.activation.slope,
        "ACTIVATION": operation.activation.name,
    }
    return start(kernel, launch.grid, named | launch.arguments)


@lru_cache(maxsize=4096)
def _pointwise(numel: int, types: tuple[torch.dtype, ...], device: int, activation: Activation, tile: int) -> Start:
    launch = plan_pointwise(numel, tile)
    named = {"slope": activation.slope, "ACTIVATION": activation.name}
    return start(pointwise_backward, launch.grid, named | launch.arguments)


@lru_cache(maxsize=4096)
def _move(channels: int, parts: int, types: tuple[torch.dtype, ...], device: int, alpha: float) -> Start:
    block = min(1024, triton.next_power_of_2(channels))
    named = {"C": channels, "W": parts, "alpha": alpha, "BLOCK": block}
    # The one program's roots and divisions in float64 are all there is to wait for: two for each thread.
    return start(move_sigma, (1,), named | {"num_warps": max(4, block // 64), "enable_fp_fusion": True})


def forward(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `stocnoise.aten.forward`."""
    y = torch.empty_like(x)
    channels = x.shape[operation.channel_dim] if statistics else 0
    if x.numel() == 0:
        return y, torch.zeros(3, channels, device=x.device), gamma.sqrt() * sigma
    types = (x.dtype, sigma.dtype, gamma.dtype)
    launch = _forward(_written(y), x.stride(), types, operation, statistics, _tile(x))
    scale = torch.empty_like(sigma)
    moments = torch.empty(3, channels, device=x.device)
    parts = torch.empty(4, launch.parts, channels, device=x.device) if statistics else moments
    with _on_device_of(x):
        launch.main(x, y, parts, scale, sigma, gamma, seed)
        if statistics:
            launch.merge(parts, moments)
    return y, moments, scale


def backward(grad: Tensor, x: Tensor, scale: Tensor, seed: Tensor, operation: Operation) -> Tensor:
    """See `stocnoise.aten.backward`."""
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    types = (grad.dtype, x.dtype, scale.dtype)
    launch = _backward(_written(dx), grad.stride(), x.stride(), types, operation, _tile(x))
    with _on_device_of(x):
        launch(grad, x, dx, scale, seed)
    return dx


def backward_from_output(grad: Tensor, y: Tensor, activation: Activation) -> Tensor:
    """See `stocnoise.aten.backward_from_output`."""
    if grad.stride() != y.stride() or y.numel() == 0:
        return aten.backward_from_output(grad, y, activation)  # reads any strides
    dx = torch.empty_like(y)
    launch = _pointwise(y.numel(), (grad.dtype, y.dtype), y.get_device(), activation, _tile(y))
    with _on_device_of(y):
        launch(grad, y, dx)
    return dx


def update_sigma(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    """See `stocnoise.aten.update_sigma`."""
    parts, _, channels = moments.shape
    types = (sigma.dtype, before.dtype, batches.dtype, moments.dtype)
    launch = _move(channels, parts, types, sigma.get_device(), alpha)
    with _on_device_of(sigma):
        launch(sigma, before, batches, moments.contiguous())


def forget() -> None:
    """Let go of all launches, for whoever changes how they are planned, or the kernels."""
    for launches in (_forward, _backward, _pointwise, _move):
        launches.cache_clear()
