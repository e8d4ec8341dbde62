"""Where a run that went wrong first went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.batches import Others
from stocnoise.training.borrowed import statistics_kept
from stocnoise.undo import attributes_kept, handles


def non_finite_origin(model: nn.Module, images: tuple[Tensor, ...], others: Others | None = None) -> str:
    """What first produced NaN or infinity when `images` went through `model`, in words.

    The pass is made again, with a look at every module; then gradients are looked at. Buffers are put back. `model` is
    the bare module, not a wrapper. In a process group every process must call this.
    """
    origins: list[str] = []
    broken_input: dict[nn.Module, bool] = {}
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        broken_input[module] = _non_finite(inputs)

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # Inner modules end before the one that holds them, so the first find is the innermost.
        if not origins and _non_finite(output) and not broken_input[module]:
            origins.append(f"layer {names[module]} ({type(module).__name__})")
            broken = [name for name, p in module.named_parameters(recurse=False) if _non_finite(p)]
            if broken:
                origins[0] += f", whose {' and '.join(broken)} already held it"

    # σ must stand still: its message would wait for ranks that look elsewhere.
    with statistics_kept(model), _observed(model, before, after), torch.no_grad():
        given = torch.cat(images)
        model(given) if others is None else others.call(model, given, draws=len(images))
    if not all(torch.isfinite(part).all() for part in images):
        return "the images themselves"
    if origins:
        return origins[0]
    for name, parameter in reversed(list(model.named_parameters())):  # the backward pass begins at the end
        if parameter.grad is not None and _non_finite(parameter.grad):
            return f"the backward pass, at the gradient of {name}"
    return "the loss: the model's output is finite"


def _non_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(_non_finite(item) for item in value)


@contextmanager
def _observed(model: nn.Module, before: Any, after: Any) -> Iterator[None]:
    compiled = [(model, model._compiled_call_impl)]
    with handles() as held, attributes_kept("_compiled_call_impl", compiled):
        for module in model.modules():
            held.append(module.register_forward_pre_hook(before))
            held.append(module.register_forward_hook(after))
        model._compiled_call_impl = None
        yield
