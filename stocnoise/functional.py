"""The fused operation by itself: noise, activation and batch statistics in one pass over x."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from stocnoise import ways
from stocnoise.activations import Activation, Operation
from stocnoise.checks import check_device, check_share, check_tensor

__all__ = ["checkpoint_contexts", "draw_seed", "stoc_act", "update_sigma"]

_as_one = False


def draw_seed(device: torch.device | str) -> Tensor:
    """One int64 seed, shape (1,), drawn on `device` from PyTorch's own generator.

    A tensor, not a Python number: so `torch.manual_seed`, activation checkpointing, CUDA-graph replay (a new seed each
    replay) and `torch.compile` all behave. In a process group each rank draws from a range of its own, so that ranks
    seeded alike still make different noise.

    Example:
        >>> stocnoise.functional.draw_seed("cpu").shape
        torch.Size([1])
    """
    if not isinstance(device, torch.device):
        check_device("device", device)
    rank, world = 0, 1
    if not _as_one and torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    width = (2**63 - 1) // world
    return torch.randint(rank * width, (rank + 1) * width, (1,), device=device, dtype=torch.int64)


@contextmanager
def as_one_process() -> Iterator[None]:
    """Within the block ranks seeded alike make the same noise: for work seeded by what it is, not by who does it."""
    global _as_one
    before, _as_one = _as_one, True
    try:
        yield
    finally:
        _as_one = before


def stoc_act(
    x: Tensor,
    sigma: Tensor,
    gamma: Tensor,
    seed: Tensor,
    *,
    activation: str = "relu",
    slope: float = 0.01,
    channel_dim: int = 1,
    statistics: bool = False,
    shared: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = h(x + √γ · σ_c · z), z ~ N(0, 1) i.i.d. per element, c the element's channel.

    Args:
        x: the activation's input, any shape with C entries along `channel_dim`; float64, float32, float16 or bfloat16.
            Computed in float32 (float64 for float64) and returned in x's dtype and memory layout.
        sigma: σ, shape (C,), float32, in units of x.
        gamma: γ, 0-dim float32: the noise has variance γσ_c². A tensor, so that changing it neither synchronises nor
            recompiles.
        seed: int64, shape (1,), on x's device (`draw_seed`). The noise is a pure function of it.
        activation: a name in `stocnoise.activations.FUSED`; "identity" adds the noise alone.
        slope: LeakyReLU's negative slope.
        channel_dim: the dimension of x that σ runs along; negative counts from the end.
        statistics: also return the moments of x, *without* the noise.
        shared: give every row x[i] the same noise, whatever the size of the batch.

    Returns:
        y, or with `statistics` (y, moments): moments is (3, C) float32, the rows count, mean and Σ(x − mean)² of each
        channel. The gradient is pathwise, dy/dx = h'(x + noise); nothing else has one.

    Raises:
        ValueError: unknown activation, something is no tensor or of another shape, or σ does not fit x.

    Source: Tan, Elovici, Binder, "Adaptive Noise Injection for Training Stochastic Student Networks from Deterministic
    Teachers", ICPR 2020, section III.

    Example:
        >>> seed = stocnoise.functional.draw_seed("cpu")
        >>> y = stocnoise.functional.stoc_act(images, torch.ones(3), torch.tensor(0.01), seed, activation="gelu")
    """
    for name, value in (("x", x), ("sigma", sigma), ("gamma", gamma), ("seed", seed)):
        check_tensor(name, value)
    for name, value, dims in (("sigma", sigma, 1), ("gamma", gamma, 0), ("seed", seed, 1)):
        if value.dim() != dims:
            raise ValueError(f"{name} must have {dims} dimensions, not shape {tuple(value.shape)}")
    if seed.dtype != torch.int64:
        raise ValueError(f"seed must be int64, as draw_seed makes it, not {seed.dtype}")
    if isinstance(channel_dim, bool) or not isinstance(channel_dim, int):
        raise ValueError(f"channel_dim must be a whole number, not {channel_dim!r}")
    operation = Operation(Activation(activation, slope), channel_dim, shared)
    y, moments, _ = perform(operation, x, sigma, gamma, seed, statistics)
    return (y, moments) if statistics else y


def perform(
    operation: Operation, x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`stoc_act` of an operation made once: y, the moments, (3, 0) without `statistics`, and the noise's scale √γ·σ."""
    channel_dim, dims = operation.channel_dim, x.dim()
    if not -dims <= channel_dim < dims or x.shape[channel_dim] != sigma.shape[0]:
        raise ValueError(
            f"expected {sigma.shape[0]} channels along dimension {channel_dim}, got an input of shape {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"expected a floating-point input, got {x.dtype}")
    if channel_dim < 0:
        operation = replace(operation, channel_dim=channel_dim + dims)
    return ways.apply(x, sigma, gamma, seed, operation, statistics)


def checkpoint_contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """For `torch.utils.checkpoint.checkpoint(..., use_reentrant=False, context_fn=checkpoint_contexts)`: recompute
    everything but the stochastic activations, whose outputs are kept.

    Needed where a recomputation could see another σ than the first pass saw: under `torch.compile`, and when more than
    16 forwards come before their backwards. Otherwise the layers see to it themselves, and keep no activation.

    Example:
        >>> from torch.utils.checkpoint import checkpoint
        >>> contexts = stocnoise.functional.checkpoint_contexts
        >>> logits = checkpoint(student, images, use_reentrant=False, context_fn=contexts)
    """
    return create_selective_checkpoint_contexts([torch.ops.stocnoise.stoc_act.default])


def update_sigma(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    """σ_c ← (1−α)·σ_c + α·STD_c, in place, with Bessel's correction as in `torch.std`.

    Args:
        sigma: σ, shape (C,), float32, updated.
        before: shape (C,), float32, receives the σ from before this update.
        batches: 0-dim int64, the number of batches that moved σ; grows by one if any channel's STD was finite.
        moments: (W, 3, C) float32, the moments of W parts of one batch (W ranks), merged by Chan's formula in order.
        alpha: α, in [0, 1].

    A channel whose STD is not finite (an overflow, an empty batch, a single element) keeps its σ; so do inputs of which
    Σ(x − mean)² is beyond float32, an STD of some 1e18. σ is rounded to float32 once an update, and an update forgets
    the share α of earlier errors: relative to σ they stay at a few 2⁻²⁴/α, however many batches there are.

    Raises:
        ValueError: shapes that do not fit together, or α outside [0, 1].

    Example:
        >>> sigma, count, seed = torch.zeros(3), torch.tensor(0), stocnoise.functional.draw_seed("cpu")
        >>> _, moments = stocnoise.functional.stoc_act(images, sigma, torch.tensor(0.01), seed, statistics=True)
        >>> stocnoise.functional.update_sigma(sigma, torch.empty(3), count, moments[None], alpha=0.5)
        >>> torch.allclose(sigma, 0.5 * images.std((0, 2, 3)))
        True
    """
    for name, value in (("sigma", sigma), ("before", before), ("batches", batches), ("moments", moments)):
        check_tensor(name, value)
    channels = tuple(sigma.shape)
    if len(channels) != 1:
        raise ValueError(f"sigma must have shape (C,), not {channels}")
    if tuple(before.shape) != channels:
        raise ValueError(f"before must have sigma's shape {channels}, not {tuple(before.shape)}")
    if batches.dim() or batches.is_floating_point():
        raise ValueError(f"batches must be a count, 0-dim int64, not {batches.dtype} of shape {tuple(batches.shape)}")
    if moments.dim() != 3 or tuple(moments.shape[1:]) != (3, *channels):
        raise ValueError(f"moments must have shape (W, 3, {channels[0]}), not {tuple(moments.shape)}")
    check_share("alpha", alpha)
    ways.apply_update(sigma, before, batches, moments, alpha)
