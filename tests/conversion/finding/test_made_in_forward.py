"""Activation modules that are no parts of the model: made while it runs, global, of a class, unregistered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers, sites

X = torch.randn(4, 8)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Table(dict[str, Any]):
    """As transformers' ACT2FN: a new module at each look."""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(key)()


TABLE = _Table(gelu=nn.GELU, quick=QuickGELU, relu=nn.ReLU)
GLOBAL = nn.SiLU()


class Base(nn.Module):
    act = nn.SELU()

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.held = [nn.ELU(), nn.Mish()]


class Made(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.ReLU()(self.a(x)))


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        nn.ReLU(inplace=True)(y)
        return self.b(y)


class FromTable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return TABLE["gelu"](self.b(TABLE["quick"](self.a(x))))


class Kept(Base):
    def forward(self, x: Tensor) -> Tensor:
        act = TABLE["relu"]
        return act(self.b(act(self.a(x))))


class Global(Base):
    def forward(self, x: Tensor) -> Tensor:
        return GLOBAL(self.a(x))


class OfClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))


class Unregistered(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](self.a(x)) + self.held[1](self.b(x))


class WithParameters(Base):
    def forward(self, x: Tensor) -> Tensor:
        return nn.LeakyReLU(negative_slope=0.3)(self.a(x))


@pytest.mark.parametrize(
    ("model", "activations"),
    [
        (Made, ["relu"]),
        (InPlace, ["relu"]),
        (FromTable, ["QuickGELU", "gelu"]),
        (Kept, ["relu", "relu"]),
        (Global, ["silu"]),
        (OfClass, ["selu"]),
        (Unregistered, ["elu", "mish"]),
        (WithParameters, ["leaky_relu"]),
    ],
)
def test_it_is_a_functional_call(model: type[Base], activations: list[str]) -> None:
    found = sites(model(), X)
    assert [site.activation for site in found] == activations
    assert {site.kind for site in found} == {"functional"}
    assert len(layers(converted(model(), X))) == len(activations)


def test_it_can_be_excluded() -> None:
    student = stocnoise.convert(nn.Sequential(Made(), nn.ReLU()), X, exclude="0*")
    assert list(layers(student)) == ["1"]


def test_gates_stay() -> None:
    class Gated(Base):
        def forward(self, x: Tensor) -> Tensor:
            return nn.ReLU()(self.a(x)) * nn.Sigmoid()(self.b(x))

    student = converted(Gated(), X)
    assert list(layers(student)) == ["relu_0"]
    assert [item.activation for item in stocnoise.summary(student).left] == ["sigmoid"]
