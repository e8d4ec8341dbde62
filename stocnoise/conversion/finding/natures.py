"""What a module is as a whole, before anything inside it is looked at: an activation, a gate, or neither."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from stocnoise.conversion.finding.behaviour import of_function
from stocnoise.conversion.finding.catalog import activation_reader, declared, gate_name

_LARGEST = 4
"""Modules inside one that may still be an activation written with the help of others."""


_HEAVIEST = 5000
"""Elements of a weight that an activation may have: it has a few for each channel."""


# Functions that no activation calls: they mix elements, or are random.
_NEVER = {
    *("linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "bmm", "einsum", "batch_norm", "layer_norm"),
    *("group_norm", "instance_norm", "rms_norm", "softmax", "mean", "var", "sum", "dropout", "bernoulli_", "rand"),
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "cat", "permute", "roll", "embedding", "interpolate"),
}

# Functions of one tensor that are not linear: without one of them, or a call that torch does not announce, none is.
_CURVED = {
    name + end
    for name in (
        *("sigmoid", "tanh", "erf", "erfc", "exp", "expm1", "exp2", "log", "log1p", "log2", "sqrt", "rsqrt", "pow"),
        *(
            "square",
            "abs",
            "reciprocal",
            "sin",
            "cos",
            "sinh",
            "cosh",
            "tan",
            "asinh",
            "atan",
            "arctan",
            "sinc",
            "sign",
        ),
        *("clamp", "clamp_min", "clamp_max", "clip", "maximum", "minimum", "max", "min", "where", "masked_fill"),
        *("mul", "div", "true_divide", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__pow__", "__rpow__"),
        *("heaviside", "hypot", "xlogy", "logaddexp", "threshold", "gt", "lt", "ge", "le", "__gt__", "__lt__", "float"),
        *("erfinv", "softplus", "logsigmoid", "special_expit", "special_erf", "special_ndtr", "addcmul", "addcdiv"),
        *("relu", "relu6", "leaky_relu", "gelu", "silu", "elu", "selu", "celu", "mish", "hardtanh", "hardsigmoid"),
        *("hardswish", "softsign", "hardshrink", "softshrink", "tanhshrink", "prelu"),
    )
    for end in ("", "_")
}


_OF_EVERY_MODULE = set(vars(nn.Module())) - {"training"}


class Nature(NamedTuple):
    """`kind` is "activation" or "gate"; `reason` why, and empty for an activation that is one by its class."""

    kind: str
    reason: str


BY_VALUE = "by its values: elementwise, not linear"
GATE_BY_VALUE = "a gate by its values: elementwise, bounded"


class Natures:
    """Remembers what was told of each kind of module in one survey."""

    def __init__(self, whole: Iterable[nn.Module] = ()) -> None:
        self._whole = set(whole)
        self._known: dict[Any, Nature | None] = {}
        self._could_be: dict[nn.Module, bool] = {}

    def declared(self, module: nn.Module) -> Nature | None:
        """What `module` is known to be without looking at its values."""
        kind = "activation" if module in self._whole else declared(module)
        return None if kind is None else Nature(kind, "" if kind == "activation" else "registered as a gate")

    def by_value(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Set[str]
    ) -> Nature | None:
        """What `module` is, of which a call with these arguments has called the functions `names`."""
        if names & _NEVER or (names and not names & _CURVED):
            return None
        if module not in self._could_be:
            self._could_be[module] = _could_be_one(module)
        if not self._could_be[module] or isinstance(args[0], nn.Parameter):
            return None
        others = (*args[1:], *kwargs.values())
        if not args[0].is_floating_point() or args[0].dim() < 2 or not all(_plain(value) for value in others):
            return None
        key = (_settings(module), tuple(args[0].shape), others, tuple(kwargs))
        if key not in self._known:
            self._known[key] = _by_value(module, args, kwargs)
        return self._known[key]


def _could_be_one(module: nn.Module) -> bool:
    """No module of torch's, and nothing inside; or small ones without weights, if it has none itself."""
    if (type(module).forward.__module__ or "").startswith("torch.") or "forward" in vars(module):
        return False
    if not module._modules:
        return all(value.numel() <= _HEAVIEST for value in module._parameters.values() if value is not None)
    inside = list(itertools.islice(module.modules(), _LARGEST + 1))
    return len(inside) <= _LARGEST and not any(part._parameters or part._buffers for part in inside)


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """Equal for modules that compute the same but for their weights."""
    held = [
        (name, value if _plain(value) else id(value))
        for name, value in vars(module).items()
        if not (name in _OF_EVERY_MODULE or isinstance(value, Tensor))
    ]
    shapes = [(name, tuple(value.shape)) for name, value in _weights(module).items() if value is not None]
    parts = [_settings(part) for part in module._modules.values() if part is not None]
    return type(module), tuple(held), tuple(shapes), tuple(parts)


def _weights(module: nn.Module) -> dict[str, Tensor | None]:
    loose = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    return {**module._parameters, **module._buffers, **loose}


def _by_value(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Nature | None:
    with _disable_current_modes(), torch.no_grad():
        reads = _Reads()

        def run(x: Tensor) -> Any:
            stand_in = _stand_in(module)
            if reads.input is None:
                reads.input = x
                with reads:
                    return type(module).forward(stand_in, x, *args[1:], **kwargs)
            return type(module).forward(stand_in, x, *args[1:], **kwargs)

        before = torch.random.get_rng_state()
        behaviour = of_function(run, args[0].shape)
        if not torch.equal(before, torch.random.get_rng_state()):  # equal by luck, as dropout of two rows may be
            torch.random.set_rng_state(before)
            return None
    if behaviour == "activation" and not reads.by_activation_alone():
        return Nature("activation", BY_VALUE)
    if behaviour == "gate" and not reads.by_gate_alone():
        return Nature("gate", GATE_BY_VALUE)
    return None


def _stand_in(module: nn.Module) -> nn.Module:
    """A module like `module`, with weights that have values: those of a skeleton have none."""
    generator = torch.Generator().manual_seed(0)
    made = object.__new__(type(module))
    vars(made).update(vars(module))
    for held in (module._parameters, module._buffers, {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}):
        filled = {name: _filled(value, generator) for name, value in held.items()}
        if held is module._parameters:
            vars(made)["_parameters"] = filled
        elif held is module._buffers:
            vars(made)["_buffers"] = filled
        else:
            vars(made).update(filled)
    vars(made)["_modules"] = {name: part and _stand_in(part) for name, part in module._modules.items()}
    for name in list(vars(made)):
        if name.endswith("_hooks"):
            vars(made)[name] = type(vars(made)[name])()
    return made


def _filled(value: Tensor | None, generator: torch.Generator) -> Tensor | None:
    if value is None or not value.is_floating_point():
        return None if value is None else torch.zeros(value.shape, dtype=value.dtype)
    return torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5


class _Reads(TorchFunctionMode):
    """Which functions take the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.input: Tensor | None = None
        self._readers: list[Any] = []
        self._activations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":
            self._readers += [func for value in _flat((args, kwargs or {})) if value is self.input]
            self._activations += activation_reader(func) is not None
        return func(*args, **(kwargs or {}))

    def by_activation_alone(self) -> bool:
        """Whether noise at the activations inside is noise on the input: it enters at one of them, or once before."""
        direct = len(self._readers) == 1 and activation_reader(self._readers[0]) is not None
        return direct or (len(self._readers) == 1 and self._activations == 1)

    def by_gate_alone(self) -> bool:
        return len(self._readers) == 1 and gate_name(self._readers[0]) is not None


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for item in value:
        yield from _flat(item)
