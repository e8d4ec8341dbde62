"""Activations that are no modules: functions, methods of tensors, attributes, helpers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.conversion import conversion_of
from tests.conversion_checks import activation_calls, converted, layers, sites

X = torch.randn(2, 4, 6, 6)


class Calls(nn.Module):
    """A convolution whose output goes through whatever `forward` of the subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 1)


class Function(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Torch(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + 1


class Method(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class MethodOfSum(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + 1).relu().mean((2, 3))


class Nested(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(x))).relu()


class Keyword(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(negative_slope=0.3, input=self.conv(x))


class Settings(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.leaky_relu(self.conv(x), 0.2), approximate="tanh")


class OnOneLine(Calls):
    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.conv(x)), F.relu(-self.conv(x))
        return a - 2 * b


class Unfused(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.elu(F.mish(self.conv(x)), alpha=0.5)


class Conditional(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) if x.shape[0] > 1 else F.gelu(self.conv(x))


class Walrus(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return (y := F.relu(self.conv(x))) + y.mean()


class Formatted(Calls):
    def forward(self, x: Tensor) -> Tensor:
        """A docstring; and a string with a call in it."""
        y = F.relu(self.conv(x))
        self.note = f"{y.shape[0]} rows: {F.relu(y).dim()}"
        return y


class Attribute(Calls):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class InTable(Calls):
    table: ClassVar[dict[str, Callable[..., Tensor]]] = {"relu": F.relu, "silu": F.silu}

    def forward(self, x: Tensor) -> Tensor:
        return self.table["silu"](self.conv(x))


class ByGetattr(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, "relu")(self.conv(x))  # noqa: B009


class LocalName(Calls):
    def forward(self, x: Tensor) -> Tensor:
        act = F.relu
        return act(self.conv(x))


class Aten(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.relu(self.conv(x)) + torch.ops.aten.silu.default(self.conv(x))


class SameName(Calls):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.relu(self.conv(x)) - 0.1)


class NotOfTheData(Calls):
    """Activations of a scalar, a parameter, a vector picked by a mask, and one of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(5, 1, 1))
        self.scalar = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv(x)) * F.softplus(self.scale) * F.softplus(self.scalar * 2)
        return y + F.relu(y[y > 0]).sum()


class FromList(Calls):
    """One call in the source, of one function after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda value, f: f(value), [F.relu, F.silu], self.conv(x))


def thin(x: Tensor) -> Tensor:
    """Only applies the activation to its argument."""
    return F.silu(x, inplace=False)


class Thin(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return thin(self.conv(x))


@pytest.mark.parametrize(
    ("model", "activations"),
    [
        (Function, ["relu"]),
        (Torch, ["relu"]),
        (Method, ["relu"]),
        (MethodOfSum, ["relu"]),
        (Nested, ["relu"] * 3),
        (Keyword, ["leaky_relu"]),
        (Settings, ["leaky_relu", "gelu"]),
        (OnOneLine, ["relu", "relu"]),
        (Unfused, ["mish", "elu"]),
        (Conditional, ["relu"]),
        (Walrus, ["relu"]),
        (Formatted, ["relu", "relu"]),
        (InTable, ["silu"]),
        (ByGetattr, ["relu"]),
        (LocalName, ["relu"]),
        (FromList, ["relu", "silu"]),
        (Aten, ["relu", "silu"]),
        (Thin, ["silu"]),
    ],
)
def test_a_functional_call_is_a_site(model: type[nn.Module], activations: list[str]) -> None:
    teacher = model()
    found = sites(teacher, X)
    assert [s.activation for s in found] == activations
    assert {s.kind for s in found} == {"functional"}
    student = converted(teacher, X)
    assert len(layers(student)) == len(activations)
    if model is not Aten:  # whose functions the counter does not know
        assert activation_calls(teacher, X) == len(activations)
    assert list(teacher.state_dict()) == [key for key in student.state_dict() if key in teacher.state_dict()]


@pytest.mark.parametrize(
    "act",
    [
        F.gelu,
        torch.relu,
        Tensor.relu,
        functools.partial(F.leaky_relu, negative_slope=0.3),
        functools.partial(functools.partial(F.gelu), approximate="tanh"),
        lambda x: F.silu(x),
        lambda x: x.relu(),
        thin,
        torch.nn.functional.hardswish,
    ],
)
def test_a_function_held_as_an_attribute(act: Callable[[Tensor], Tensor]) -> None:
    student = converted(Attribute(act), X)
    ((_, layer),) = layers(student).items()
    assert layer.num_channels == 5
    assert student.act is act or callable(student.act)


def test_a_module_and_a_function_of_one_name_are_told_apart() -> None:
    assert [(s.name, s.kind, s.index) for s in sites(SameName(), X)] == [
        ("relu", "module", 0),
        ("relu", "functional", 1),
    ]
    converted(SameName(), X)


def test_what_is_no_activation_of_the_data_is_left_alone_and_listed() -> None:
    student = converted(NotOfTheData(), X)
    assert list(layers(student)) == ["gelu_0"]
    assert [(item.activation, item.reason) for item in conversion_of(student).left] == [
        ("softplus", "its input is a parameter"),
        ("softplus", "its input has no batch or no channels"),
        ("relu", "its input has no batch or no channels"),
    ]


class ManyKinds(Calls):
    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, self.how)(self.conv(x))


@pytest.mark.parametrize(
    "name",
    ["relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "elu", "selu", "celu", "mish", "softplus", "softsign"],
)
def test_every_activation_by_name(name: str) -> None:
    (site,) = sites(ManyKinds(name), X)
    assert site.activation == name
    converted(ManyKinds(name), X)
