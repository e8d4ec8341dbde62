"""The input that a model is probed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from stocnoise.conversion import described

_DEFAULT_SIZE = (3, 224, 224)


class Example:
    """Arguments that a model can be called with, always with a batch of at least two, for BatchNorm in training."""

    def __init__(self, model: nn.Module, given: Any = None) -> None:
        self.given = given is not None
        if given is None:
            given = _default(model)
        self.args: tuple[Any, ...] = ()
        self.kwargs: Mapping[str, Any] = {}
        if isinstance(given, Mapping):
            self.kwargs = given
        else:
            self.args = given if isinstance(given, tuple) else (given,)
        tensors = [v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor)]
        if tensors and all(t.dim() > 1 and t.shape[0] == 1 for t in tensors):
            self.args, self.kwargs = self.map(lambda t: t.repeat(2, *[1] * (t.dim() - 1)))

    def map(self, change: Callable[[Tensor], Tensor]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments with every tensor in them changed."""
        return tree_map(lambda v: change(v) if isinstance(v, Tensor) else v, (self.args, dict(self.kwargs)))

    def describe(self) -> Any:
        """The arguments as JSON, for `Example.recall`, the values of most tensors left out; None if JSON cannot."""
        return described.encode([list(self.args), dict(self.kwargs)])

    def arguments(self) -> tuple[int, tuple[str, ...], bool]:
        """The number of positional arguments, the keywords, and whether the first argument is a tensor."""
        return len(self.args), tuple(self.kwargs), bool(self.args) and isinstance(self.args[0], Tensor)

    @staticmethod
    def recall(model: nn.Module, description: Any) -> Example:
        """The example that `describe` described and `described.check` let pass, on the device of `model`."""
        args, kwargs = described.decode(description, _device(model))
        example = Example(model, tuple(args))
        example.kwargs = kwargs
        return example

    def advice(self) -> str:
        if self.given:
            return "check example_input: it must be what the model is called with, in training mode too"
        return "pass example_input, what the model is called with; without it an image of the default size is tried"


def describe(examples: Sequence[Example]) -> Any:
    """All of them as JSON, for `recall`; None if one cannot be described."""
    each = [example.describe() for example in examples]
    if any(description is None for description in each):
        return None
    return each[0] if len(each) == 1 else {"inputs": each}


def recall(model: nn.Module, description: Any) -> list[Example]:
    """What `describe` described."""
    each = description["inputs"] if isinstance(description, Mapping) else [description]
    return [Example.recall(model, one) for one in each]


def _default(model: nn.Module) -> Tensor:
    config = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = parameter.dtype if parameter is not None else torch.float32
    return torch.zeros(2, *(size or _DEFAULT_SIZE), device=_device(model), dtype=dtype)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
