"""What counts as an activation, and what is left alone though it looks like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.activations import Activation

Reader = Callable[..., Activation | None]
"""Reads the arguments of a call: the fused activation it computes, or None if the fused operation does not know it."""


def _relu(x: Tensor, inplace: bool = False) -> Activation:
    return Activation("relu")


def _relu6(x: Tensor, inplace: bool = False) -> Activation:
    return Activation("relu6")


def _leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Activation:
    return Activation("leaky_relu", float(negative_slope))


def _gelu(x: Tensor, approximate: str = "none") -> Activation:
    return Activation("gelu_tanh" if approximate == "tanh" else "gelu")


def _silu(x: Tensor, inplace: bool = False) -> Activation:
    return Activation("silu")


def _hardswish(x: Tensor, inplace: bool = False) -> Activation:
    return Activation("hardswish")


def _not_fused(*args: Any, **kwargs: Any) -> None:
    return None


def _spellings(*names: str) -> list[Any]:
    """Every function that goes by one of `names` in torch, torch.nn.functional, Tensor and ATen, in place or not."""
    places = (torch, F, torch._C._nn, Tensor, torch.ops.aten)
    candidates = (getattr(place, name + end, None) for name in names for end in ("", "_") for place in places)
    found = [function for function in candidates if function is not None]
    return found + [function.default for function in found if hasattr(function, "default")]


_READERS: dict[str, Reader] = {
    "relu": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "silu": _silu,
    "hardswish": _hardswish,
    **dict.fromkeys(("elu", "selu", "celu", "prelu", "rrelu", "mish", "softplus", "softsign"), _not_fused),
    **dict.fromkeys(("hardtanh", "threshold", "hardshrink", "softshrink", "tanhshrink"), _not_fused),
}

ACTIVATIONS: dict[Any, tuple[str, Reader]] = {
    function: (name, reader) for name, reader in _READERS.items() for function in _spellings(name)
}
"""Function to its name and the reader of its arguments."""

GATES: dict[Any, str] = {
    function: name
    for name in ("sigmoid", "hardsigmoid", "tanh", "softmax", "log_softmax", "softmin", "logsigmoid", "glu")
    for function in _spellings(name)
}
"""Functions that weigh something else (attention, squeeze-and-excitation) or make an output."""

# Activations written without calling one of the functions above. By name, so that nothing is imported.
_OPAQUE = {
    "timm.layers.activations": {"Swish", "Mish", "HardSwish", "HardMish", "QuickGELU"},
    "timm.layers.activations_me": {"SwishMe", "MishMe", "HardSwishMe", "HardMishMe"},
    # Normalisations that are activations too. Their relatives with an activation inside are not opaque.
    "timm.layers.evo_norm": {"EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2", "EvoNorm2dS0"},
    "timm.layers.filter_response_norm": {"FilterResponseNormTlu2d"},
    "transformers.activations": {
        "NewGELUActivation",
        "FastGELUActivation",
        "QuickGELUActivation",
        "ClippedGELUActivation",
        "AccurateGELUActivation",
        "LaplaceActivation",
        "ReLUSquaredActivation",
    },
}

_registered: set[type[nn.Module]] = set()


def register_activation(cls: type[nn.Module]) -> type[nn.Module]:
    """Declare a module class an activation, so that `convert` adds noise to its input. Usable as a decorator.

    Needed only for a class that computes its activation by itself; one that calls a function of torch, such as
    `F.silu`, is found without this. The module must take its input as the first argument. It may hold parameters and
    modules of its own: it stays under its name, with its keys, and the noise is added on entry.

    Example:
        >>> @stocnoise.register_activation
        ... class Sine(nn.Module):
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return torch.sin(x)

    Raises:
        TypeError: `cls` is no class of modules.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"register_activation takes a subclass of torch.nn.Module, not {cls!r}")
    _registered.add(cls)
    return cls


def is_opaque_activation(module: nn.Module) -> bool:
    """Whether `module` is an activation as a whole, whatever it calls inside.

    timm's layers that normalise and activate can be told by `apply_act` to normalise alone.
    """
    classes = type(module).__mro__[:-1]
    listed = any(cls.__name__ in _OPAQUE.get(cls.__module__, ()) for cls in classes)
    return any(cls in _registered for cls in classes) or (listed and getattr(module, "apply_act", True))
