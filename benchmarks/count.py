"""Counting activation calls without any part of the conversion: what its results are judged by.

An activation is a call of one of the functions named below, or a call of a module without children whose class stands
with the activations of torch or timm, or with timm's normalisations that are activations. Nothing is traced to where it
was called from, and nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stocnoise import StochasticActivation

_PIECEWISE = {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "hardtanh", "hardshrink", "softshrink"}
_SMOOTH = {"elu", "selu", "celu", "gelu", "silu", "hardswish", "mish", "softplus", "softsign", "tanhshrink"}
FUNCTIONS = _PIECEWISE | _SMOOTH
_MODULES = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
_NORM_ACTIVATIONS = ("timm.layers.evo_norm", "timm.layers.filter_response_norm")
_NO_ACTIVATION = ("sigmoid", "softmax", "softmin", "tanh", "glu", "attention")


def is_activation(module: nn.Module) -> bool:
    """A module without children, of torch's or timm's activations, that is not a gate or an output."""
    cls = type(module)
    if cls.__module__ in _NORM_ACTIVATIONS:
        return module.apply_act and not module._modules
    name = cls.__name__.lower().removesuffix("me")
    known = cls.__module__ in _MODULES and not (name in ("glu", "hardtanh") or name.endswith(_NO_ACTIVATION))
    return known and not module._modules


_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")


@dataclass
class Count:
    """What one forward pass called."""

    activations: int = 0
    """Activations whose input does not come from a stochastic layer."""
    stochastic: Counter[str] = field(default_factory=Counter)
    """Calls of each stochastic layer, by name."""


class _Counting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = Count()
        self._inside = 0
        self._noisy: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not self._inside and (name in FUNCTIONS or name.removesuffix("_") in FUNCTIONS):
            self._activation(args[0] if args else kwargs.get("input"))
        if args and isinstance(args[0], Tensor) and args[0].is_meta:  # where these three are slow
            if name in _NORMS:
                return torch.empty_like(args[0])
            if name == "linear" and len(args) > 1 and args[0].shape[-1] == args[1].shape[-1]:
                return args[0].new_empty(*args[0].shape[:-1], args[1].shape[0])
            if name == "lstm" and isinstance(args[1], tuple):
                state, bidirectional = args[1], args[7]
                width = state[0].shape[-1] * (1 + bidirectional)
                return args[0].new_empty(*args[0].shape[:-1], width), *map(torch.empty_like, state)
        return func(*args, **kwargs)

    def _activation(self, x: Any) -> None:
        self.count.activations += isinstance(x, Tensor) and x.is_floating_point() and x is not self._noisy

    def watch(self, name: str, module: nn.Module) -> Iterator[Any]:
        stochastic = isinstance(module, StochasticActivation)
        if not (stochastic or is_activation(module)):
            return

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not self._inside:
                if stochastic:
                    self.count.stochastic[name] += 1
                else:
                    self._activation(args[0])
            self._inside += 1

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._inside -= 1
            if stochastic:
                self._noisy = output

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave)


def count(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, training: bool) -> Count:
    """Run `model` once in the given mode and count; it is left in that mode."""
    counting = _Counting()
    model.train(training)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            for handle in counting.watch(name, module):
                stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(counting)
        model(*args, **(kwargs or {}))
    return counting.count
