"""Methods that a class inherits: super(), mixins, closures over the class."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conversion_checks import Base, activation_calls, converted, layers, names

X = torch.randn(2, 4, 6, 6)


class Super(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class SuperSuper(Super):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super(SuperSuper, self).forward(x)) + F.silu(x)  # noqa: UP008


class Inherited(Base):
    """No method of its own."""


class SuperShared(Base):
    """The base and the subclass call one module."""

    class Lower(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.inner = SuperSharedUpper()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class SuperSharedUpper(SuperShared.Lower):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x) - 0.1)


class Mixin:
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x) - 0.1)  # type: ignore[misc]


class MixedIn(Mixin, Base):
    """The activation is in a class that is no module."""


class Explicit(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(Base.forward(self, x))


def make(scale: float) -> nn.Module:
    class Local(Base):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x) * scale) + __class__.__name__.count("Local")  # type: ignore[name-defined]

    return Local()


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (Super, 2),
        (SuperSuper, 5),
        (Inherited, 1),
        (SuperShared, 2),
        (MixedIn, 2),
        (Explicit, 2),
        (functools.partial(make, 2.0), 2),
    ],
)
def test_a_call_is_found_and_replaced(model: Callable[[], nn.Module], count: int) -> None:
    teacher = model()
    assert activation_calls(teacher, X) == count
    assert len(names(teacher, X)) == count
    student = converted(teacher, X)
    assert len(layers(student)) == count


def test_classes_made_by_one_function_keep_their_closures() -> None:
    for scale in (2.0, 5.0):
        converted(make(scale), X)
