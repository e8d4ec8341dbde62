"""The fused operation as PyTorch operators: shapes without data, and derivative.

`torch.library.custom_op` with an explicit fake, not `triton_op`: the fake of a `triton_op` runs the kernel, which fails
in the interpreter, so that nothing could be tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.nn import Parameter

from stocnoise import aten
from stocnoise.activations import Activation, Operation
from stocnoise.implementation import implementation


@torch.library.custom_op("stocnoise::stoc_act", mutates_args=())
def stoc_act(
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
    """y, moments, and √γ·σ for the backward pass: by then σ has been updated in place, and under `torch.compile` a copy
    taken outside the operator would be computed again from what σ has become."""
    operation = Operation(Activation(activation, slope), channel_dim, shared)
    return implementation(x).forward(x, sigma, gamma, seed, operation, statistics)


@stoc_act.register_fake
def _(
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
    moments = x.new_empty(3, sigma.shape[0] if statistics else 0, dtype=torch.float32)
    return torch.empty_like(x), moments, torch.empty_like(sigma)


@torch.library.custom_op("stocnoise::stoc_act_backward", mutates_args=())
def stoc_act_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    seed: Tensor,
    activation: str,
    slope: float,
    channel_dim: int,
    shared: bool,
) -> Tensor:
    operation = Operation(Activation(activation, slope), channel_dim, shared)
    return implementation(x).backward(grad, x, scale, seed, operation)


@stoc_act_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    seed: Tensor,
    activation: str,
    slope: float,
    channel_dim: int,
    shared: bool,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("stocnoise::update_sigma", mutates_args=("sigma", "before", "batches"))
def update_sigma(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    implementation(sigma).update_sigma(sigma, before, batches, moments, alpha)


@update_sigma.register_fake
def _(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    return None


def transformed() -> bool:
    """Whether this runs inside a transform of torch.func, where tensors have no values to look at."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def unobserved(*tensors: Tensor) -> bool:
    """Whether nothing looks at operators here: no compiler, tracer, transform, mode, subclass of Tensor or meta tensor.

    Then the implementation is called without them, which spares half the host time of a layer's training forward:
    84 µs became 39 (kernel launches left out), and `torch.relu` takes 1.5.
    """
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if (type(tensor) is not Tensor and type(tensor) is not Parameter) or tensor.is_meta:
            return False
    return not (
        torch._C._len_torch_dispatch_stack()  # FakeTensor, selective checkpointing, make_fx, export
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or _len_torch_dispatch_stack_pre_dispatch()
    )


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _, seed, operation, _ = inputs
    y, moments, scale = output
    ctx.operation = operation
    ctx.mark_non_differentiable(moments, scale)
    ctx.set_materialize_grads(False)  # zeros for moments and scale, which nobody reads
    if operation.activation.output_decides:
        ctx.save_for_backward(y)
    elif operation.activation.name != "identity":
        ctx.save_for_backward(x, scale, seed)


def gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    operation: Operation = ctx.operation
    h = operation.activation
    if grad is None or h.name == "identity":
        dx = grad
    elif h.output_decides:
        (y,) = ctx.saved_tensors
        # Compilers fuse ATen's derivatives with their neighbours, and these have derivatives themselves.
        alone = unobserved(grad, y) and not torch.is_grad_enabled()
        dx = (implementation(y) if alone else aten).backward_from_output(grad, y, h)
    else:
        x, scale, seed = ctx.saved_tensors
        if unobserved(grad, x, scale, seed) and not torch.is_grad_enabled():
            dx = implementation(x).backward(grad, x, scale, seed, operation)
        else:
            derivative = _TransformedBackward.apply if transformed() else stoc_act_backward
            dx = derivative(grad, x, scale, seed, h.name, h.slope, operation.channel_dim, operation.shared)
    return dx, None, None, None, None, None


def _save_for_backward_of_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, activation, slope, channel_dim, statistics, shared = inputs
    operation = Operation(Activation(activation, slope), channel_dim, shared)
    save_for_backward(ctx, (*tensors, operation, statistics), output)


def _backward_of_operator(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return *gradients(ctx, *grads), None, None, None


stoc_act.register_autograd(_backward_of_operator, setup_context=_save_for_backward_of_operator)


def operator(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`stoc_act`, whose schema knows no `Operation`."""
    h = operation.activation
    return stoc_act(x, sigma, gamma, seed, h.name, h.slope, operation.channel_dim, statistics, operation.shared)


def _each(op: Callable[..., Any]) -> Callable[..., Any]:
    """The rule for `torch.vmap`: the operation on each slice, so that its noise is that of the slice's own seed."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        slices = [
            op(*(arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(slices[0], Tensor):
            return torch.stack(slices), 0
        return tuple(torch.stack(part) for part in zip(*slices, strict=True)), (0,) * len(slices[0])

    return rule


stoc_act.register_vmap(_each(stoc_act))
stoc_act_backward.register_vmap(_each(stoc_act_backward))


class Transformed(torch.autograd.Function):
    """`stoc_act` for the derivatives of torch.func, which do not see those of a custom operator."""

    generate_vmap_rule = True

    forward = staticmethod(operator)
    setup_context = staticmethod(save_for_backward)
    backward = staticmethod(gradients)


class _TransformedBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return stoc_act_backward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("a stochastic activation whose noise is drawn again has no second derivative")
