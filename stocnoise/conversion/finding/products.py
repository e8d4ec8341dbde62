"""Products of x and a gate of x that a method writes out, such as x · sigmoid(x), or x · relu6(x + 3) / 6.

Each is one activation of x. Elementwise calls leave a value with their result, which knows what it was computed from;
at a product of two of them the latest value that both are functions of is looked for, and they are computed again, as
functions of it, on a grid: one factor must be linear and the other a gate.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from stocnoise.conversion.finding.behaviour import GRID, name_of_curve, of_curve

_PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "multiply_"}
_QUOTIENTS = {"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"}
_OTHERS = {
    *("add", "subtract", "sub", "rsub", "neg", "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log1p"),
    *("sigmoid", "tanh", "erf", "softplus", "logsigmoid", "relu", "relu6", "hardtanh", "hardsigmoid", "softsign"),
    *("clamp", "clamp_min", "clamp_max", "clip", "atan", "arctan", "abs", "minimum", "maximum", "silu", "elu"),
    *("float", "double", "half", "bfloat16", "to", "type_as", "contiguous", "clone"),
}
_ELEMENTWISE = {
    *_PRODUCTS,
    *_QUOTIENTS,
    *(name + end for name in _OTHERS for end in ("", "_")),
    *("__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__neg__", "__pow__", "__ipow__"),
    *("__rdiv__", "__rtruediv__"),
}
_VALUE = "_stocnoise_value"
_MOST = 40
"""Elementwise calls that are looked back at."""


@dataclass(eq=False)
class _Value:
    """What a tensor holds at one time: the result of an elementwise call, or a beginning."""

    number: int
    tensor: weakref.ref[Tensor]
    function: Any = None
    args: tuple[Any, ...] = ()
    """Of the call; values stand in it for tensors, and None for weights."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    item: Any = None
    """What the record holds about this call."""

    def parents(self) -> Iterator[_Value]:
        return (arg for arg in self.args if isinstance(arg, _Value))


class _Weight:
    """Stands for a weight, or one number, in the arguments of a call."""


@dataclass
class Found:
    """A product that is an activation of `x`."""

    x: Tensor
    name: str
    items: list[Any]
    """What the record holds about calls that are part of it."""


class Products:
    """Follows elementwise calls through one run."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any, item: Any) -> None:
        """Leave with y what it was computed from, if it is a function of one tensor, element by element."""
        if not isinstance(y, Tensor):
            return
        if name not in _ELEMENTWISE or any(isinstance(value, Tensor) for value in kwargs.values()):
            if any(value is y for value in args):  # written in place
                vars(y).pop(_VALUE, None)
            return
        parents = [value for value in args if isinstance(value, Tensor) and not _is_constant(value)]
        if not parents or len(parents) > 2 or any(parent.shape != y.shape for parent in parents):
            vars(y).pop(_VALUE, None)
            return
        values = {id(parent): self._value(parent) for parent in parents}
        if len(parents) == 2 and _common(*(values[id(parent)] for parent in parents)) is None:
            vars(y).pop(_VALUE, None)
            return
        known = tuple(
            (values[id(arg)] if id(arg) in values else _Weight()) if isinstance(arg, Tensor) else arg for arg in args
        )
        vars(y)[_VALUE] = self._new(y, function, known, kwargs, item)

    def find(self, name: str, args: tuple[Any, ...]) -> Found | None:
        """What the product of `args` is, if it is an activation."""
        inverse = name in _QUOTIENTS
        if not (inverse or name in _PRODUCTS) or len(args) != 2:
            return None
        if not all(isinstance(value, Tensor) and _VALUE in vars(value) for value in args):
            return None
        if args[0].shape != args[1].shape or args[0].dim() < 2 or not args[0].is_floating_point():
            return None
        a: _Value = vars(args[0])[_VALUE]
        b: _Value = vars(args[1])[_VALUE]
        common: _Value | None = _common(a, b)
        if common is None:
            return None
        x, begun = common.tensor(), {common: GRID}
        if x is None or vars(x).get(_VALUE) is not common:
            return None
        try:
            with _disable_current_modes(), torch.no_grad():
                ya, yb = (_replay(value, dict(begun)) for value in (a, b))
                kinds = (of_curve(ya), of_curve(1 / yb if inverse else yb))
                y = ya / yb if inverse else ya * yb
                fits = kinds == ("linear", "gate") or (kinds == ("gate", "linear") and not inverse)
                if not fits or of_curve(y) != "activation":
                    return None
                named = name_of_curve(y) or name_of_curve(y / 2) or name_of_curve(y / 6) or "gated"
        except Exception:
            return None
        inside = [value for end in (a, b) for value in _ancestors(end, common) if value is not common]
        items = {id(value.item): value.item for value in inside if value.item is not None}
        return Found(x, named, list(items.values()))

    def _value(self, tensor: Tensor) -> _Value:
        if _VALUE not in vars(tensor):
            vars(tensor)[_VALUE] = self._new(tensor)
        found: _Value = vars(tensor)[_VALUE]
        return found

    def _new(self, tensor: Tensor, *rest: Any) -> _Value:
        self._count += 1
        return _Value(self._count, weakref.ref(tensor), *rest)


def _is_constant(value: Tensor) -> bool:
    """A weight, or one number."""
    return isinstance(value, nn.Parameter) or value.dim() == 0 or (value.numel() == 1 and _VALUE not in vars(value))


def _ancestors(value: _Value, end: _Value | None = None) -> list[_Value]:
    """The value itself and what it is an elementwise function of, as far as `end`."""
    found = [value]
    for known in found:
        if known is not end and len(found) < _MOST:
            found += [parent for parent in known.parents() if parent not in found]
    return found


def _common(a: _Value, b: _Value) -> _Value | None:
    """The latest value that both are functions of."""
    shared = set(_ancestors(a)) & set(_ancestors(b))
    return max(shared, key=lambda value: value.number) if shared else None


def _replay(value: _Value, known: dict[_Value, Tensor]) -> Tensor:
    """`value` on the grid, as a function of what is `known` there; weights are taken for one."""
    if value not in known:
        args = [
            torch.ones((), dtype=torch.float64)
            if isinstance(arg, _Weight)
            else (_replay(arg, known).clone() if isinstance(arg, _Value) else arg)
            for arg in value.args
        ]
        known[value] = value.function(*args, **value.kwargs).double()
    return known[value]
