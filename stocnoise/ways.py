"""The shortest way to the fused operation: past the operators where nothing looks at them, and by ATen in the place
that suits autograd best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stocnoise import aten
from stocnoise.activations import Operation
from stocnoise.implementation import implementation
from stocnoise.ops import Transformed, gradients, operator, save_for_backward, transformed, unobserved, update_sigma

Way = Callable[[Tensor, Tensor, Tensor, Tensor, Operation, bool], tuple[Tensor, Tensor, Tensor]]


def apply(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`stoc_act`, wherever it is called."""
    way: Way = operator
    if unobserved(x, sigma, gamma, seed):
        way = _eager(x, operation)
    elif not torch.compiler.is_compiling() and transformed():
        way = Transformed.apply
    return way(x, sigma, gamma, seed, operation, statistics)


def apply_update(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    """`update_sigma`, wherever it is called."""
    if unobserved(sigma, before, batches, moments):
        implementation(sigma).update_sigma(sigma, before, batches, moments, alpha)
        torch.autograd.graph.increment_version([t for t in (sigma, before, batches) if not t.is_inference()])
    else:
        update_sigma(sigma, before, batches, moments, alpha)


def _eager(x: Tensor, operation: Operation) -> Way:
    """The way without an operator between."""
    served = implementation(x)
    along = torch.autograd.forward_ad._current_level >= 0
    if not (torch.is_grad_enabled() or along):
        return served.forward
    h = operation.activation
    # Half precision is computed in float32, and PyTorch's own derivative of gelu_tanh overflows where ours does not.
    if served is aten and x.dtype in (torch.float32, torch.float64) and h.name != "gelu_tanh":
        if operation.donated and not along and _may_be_overwritten(x):
            return _in_place
        # Where the backward pass needs x + noise, which here is no larger than x.
        if not h.output_decides and h.name != "identity":
            return _by_parts
    return _Direct.apply


class _Direct(torch.autograd.Function):
    """The implementation with its derivative."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        output = implementation(args[0]).forward(*args)
        save_for_backward(ctx, args, output)
        return output

    backward = staticmethod(gradients)


class _Perturbed(torch.autograd.Function):
    """x + noise by ATen, whose derivative is 1.

    ATen has it in memory in any case. So what follows can be PyTorch's own activation, which keeps it, as large as x,
    instead of x: no noise need be drawn again, and there is a second derivative.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        noisy, moments, scale = aten.perturbed(*args)
        ctx.mark_non_differentiable(moments, scale)
        ctx.set_materialize_grads(False)
        return noisy, moments, scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        return grad, None, None, None, None, None


def _by_parts(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `_Direct` gives, of x + noise and PyTorch's own activation."""
    noisy, moments, scale = _Perturbed.apply(x, sigma, gamma, seed, operation, statistics)
    return operation.activation(noisy), moments, scale


def _in_place(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in x's memory. The derivative of x + noise is 1, so autograd need not know of it: no memory is fresh,
    and no Python runs in the backward pass."""
    with torch.no_grad():
        _, moments, scale = aten.perturbed(x.detach(), sigma, gamma, seed, operation, statistics, overwrite=True)
    h = operation.activation
    return torch.relu_(x) if h.name == "relu" else h(x), moments, scale


# Operations that do not keep their result for the backward pass.
_KEEP_NO_RESULT = frozenset(
    f"{name}Backward0"
    for name in ("Add", "Addmm", "Convolution", "NativeBatchNorm", "NativeGroupNorm", "NativeLayerNorm")
)


def _may_be_overwritten(x: Tensor) -> bool:
    """Whether x + noise may take the place of x, if nothing reads x again: nothing but what made x has it, and that
    does not need it. A tensor from outside is not such a one: from call to call noise would be added to noise."""
    return (
        x.grad_fn is not None
        and x.grad_fn.name() in _KEEP_NO_RESULT
        and not x._is_view()
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
    )
