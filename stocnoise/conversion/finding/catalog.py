"""What counts as an activation, and what is left alone though it looks like one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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

Registered = TypeVar("Registered", type[nn.Module], Callable[..., Any])

# What users declared, classes of modules and functions of torch: "activation" or "gate".
_registered: dict[Any, str] = {}


def register_activation(what: Registered) -> Registered:
    """Declare a class of modules, or a function of torch, an activation: `convert` adds noise to its input.

    Needed only where `convert` takes it for a gate or for something else; what it decided is in the summary. A module
    must take its input as the first argument. It may hold parameters and modules of its own: it stays under its name,
    with its keys, and the noise is added on entry. A function stands for all its spellings (`torch.tanh`,
    `Tensor.tanh`, `F.tanh`, in place or not). The last declaration counts. Usable as a decorator of a class.

    Example:
        >>> stocnoise.register_activation(torch.tanh) is torch.tanh
        True
        >>> @stocnoise.register_activation
        ... class Gaussian(nn.Module):
        ...     def forward(self, x):
        ...         return torch.exp(-x * x)

    Raises:
        TypeError: `what` is neither a class of modules nor a function of torch.
    """
    return _register(what, "activation", register_activation)


def register_gate(what: Registered) -> Registered:
    """Declare a class of modules, or a function of torch, a gate: `convert` leaves it, and all inside it, as it is.

    The summary lists it. Arguments and errors as in `register_activation`.

    Example:
        >>> stocnoise.register_gate(nn.Softplus) is nn.Softplus
        True
    """
    return _register(what, "gate", register_gate)


def _register(what: Any, kind: str, how: Callable[..., Any]) -> Any:
    if isinstance(what, type) and issubclass(what, nn.Module):
        _registered[what] = kind
        return what
    name = getattr(what, "__name__", "").partition(".")[0].removesuffix("_")
    spellings = _spellings(name) if name else []
    if isinstance(what, type) or not callable(what) or what not in spellings:
        raise TypeError(
            f"{how.__name__} takes a subclass of torch.nn.Module, or a function of torch such as torch.tanh, not "
            f"{what!r}: of a function of your own, register the function of torch that it calls, or make it a module"
        )
    _registered.update((spelling, kind) for spelling in spellings)
    return what


def activation_reader(function: Any) -> tuple[str, Reader] | None:
    """The name of an activation, and the reader of its arguments; None for any other function."""
    kind = _look_up(_registered, function)
    known = _look_up(ACTIVATIONS, function)
    if kind == "gate" or (kind is None and known is None):
        return None
    return known or (function.__name__.partition(".")[0].removesuffix("_"), _not_fused)


def gate_name(function: Any) -> str | None:
    """The name of a function that is a gate."""
    kind = _look_up(_registered, function)
    if kind is not None:
        return function.__name__.partition(".")[0].removesuffix("_") if kind == "gate" else None
    found: str | None = _look_up(GATES, function)
    return found


def declared(module: nn.Module) -> str | None:
    """What `module` is as a whole, whatever it calls inside: "activation", "gate", or None if that is not said.

    timm's layers that normalise and activate can be told by `apply_act` to normalise alone.
    """
    classes = type(module).__mro__[:-1]
    if (kind := next((_registered[cls] for cls in classes if cls in _registered), None)) is not None:
        return kind
    listed = any(cls.__name__ in _OPAQUE.get(cls.__module__, ()) for cls in classes)
    return "activation" if listed and getattr(module, "apply_act", True) else None


def _look_up(table: Mapping[Any, Any], function: Any) -> Any:
    try:
        return table.get(function)
    except TypeError:  # unhashable
        return None
