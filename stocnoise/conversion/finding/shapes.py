"""What some calls return without data, told from shapes alone: PyTorch takes most of a run without data to say so."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}


def without_data(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_meta or isinstance(x, FakeTensor))


def result(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """What the function `name` returns; None where it has to run to say."""
    if not args or not without_data(args[0]):
        return None
    x: Tensor = args[0]
    if name in _NORMS:
        return torch.empty_like(x)
    if name == "linear" and len(args) > 1 and _fits(x, args[1]):
        return x.new_empty(*x.shape[:-1], args[1].shape[0])
    if name == "interpolate" and x.dim() > 2:
        return x.new_empty(*x.shape[:2], *_interpolated(x.shape[2:], *args[1:3], **kwargs))
    return None


def _interpolated(sizes: torch.Size, size: Any = None, scale_factor: Any = None, **kwargs: Any) -> list[int]:
    given = scale_factor if size is None else size
    each = given if isinstance(given, (tuple, list)) else [given] * len(sizes)
    return list(each) if size is not None else [math.floor(n * scale) for n, scale in zip(sizes, each, strict=True)]


def _fits(x: Tensor, weight: Any) -> bool:
    matrix = isinstance(weight, Tensor) and weight.dim() == 2
    return matrix and x.shape[-1:] == weight.shape[1:] and x.dtype == weight.dtype


def shorten(model: nn.Module) -> None:
    """Let the recurrent layers of a skeleton return their shapes: without data PyTorch runs them step by step."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and type(module).__module__ == nn.RNNBase.__module__:
            module.forward = _Recurrent(module)


class _Recurrent:
    """Stands for `module.forward`."""

    def __init__(self, module: nn.RNNBase) -> None:
        self._module = module

    def __call__(self, input: Any, hx: Any = None) -> Any:
        module = self._module
        if not without_data(input):  # a packed sequence, too
            return type(module).forward(module, input, hx)
        directions = 1 + module.bidirectional
        width = module.proj_size or module.hidden_size
        batch = [] if input.dim() == 2 else [input.shape[0 if module.batch_first else 1]]
        last = input.new_empty(module.num_layers * directions, *batch, width)
        state = (last, last.new_empty(*last.shape[:-1], module.hidden_size)) if isinstance(module, nn.LSTM) else last
        return input.new_empty(*input.shape[:-1], directions * width), state
