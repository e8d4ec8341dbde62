"""Which sites are converted: filters, and the gates that are always left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from stocnoise.conversion import conversion_of
from tests.conversion_checks import assert_same_function, layers, names

X = torch.randn(2, 4, 6, 6)


class SqueezeExcite(nn.Module):
    """Its ReLU is an activation, its Sigmoid a gate."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(4, 2, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(2, 4, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()
        self.se = SqueezeExcite(nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.se(self.act(self.conv(x))))


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(F.relu(x).flatten(2).transpose(1, 2) @ x.flatten(2), -1)
        return torch.tanh(weights.sum(1))


def model() -> nn.Module:
    return nn.Sequential(Block(), Block())


ALL = ["0.act", "0.se.act", "0.silu", "1.act", "1.se.act", "1.silu"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ALL),
        ({"include": "0.*"}, ALL[:3]),
        ({"exclude": "*.se.*"}, ["0.act", "0.silu", "1.act", "1.silu"]),
        ({"include": nn.ReLU}, ["0.act", "0.se.act", "1.act", "1.se.act"]),
        ({"exclude": nn.ReLU}, ["0.silu", "1.silu"]),
        ({"include": Block}, ["0.silu", "1.silu"]),
        ({"include": lambda name, module: name.endswith("silu")}, ["0.silu", "1.silu"]),
        ({"include": ["1.*", "0.silu"], "exclude": ["*.se.act"]}, ["0.silu", "1.act", "1.silu"]),
        (
            {"include": [nn.ReLU, "1.silu"], "exclude": lambda name, module: name.startswith("0.se")},
            ["0.act", *ALL[3:]],
        ),
        ({"include": "act"}, []),
    ],
)
def test_include_and_exclude(settings: dict[str, Any], expected: list[str]) -> None:
    assert names(model(), X, **settings) == expected
    if expected:
        teacher = model()
        student = stocnoise.convert(teacher, X, **settings)
        assert len(layers(student)) == len(expected)
        assert_same_function(teacher, student, X)
        assert sum(item.reason in ("excluded", "not included") for item in conversion_of(student).left) == (
            len(ALL) - len(expected)
        )


def test_excluding_some_calls_of_a_shared_module_by_index_is_all_or_nothing() -> None:
    """Sites of one module share its name, and so its fate."""
    shared = nn.ReLU()
    parts = nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.Conv2d(4, 4, 1), shared)
    assert names(parts, X) == ["1", "3"]
    assert names(parts, X, exclude="3") == ["1"]


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid(), nn.Softmax(1), nn.Tanh()])
def test_gates_are_left_alone_and_listed(gate: nn.Module) -> None:
    student = stocnoise.convert(SqueezeExcite(gate), X)
    assert list(layers(student)) == ["act"]
    assert type(student.gate) is type(gate)
    (left,) = conversion_of(student).left
    assert (left.name, left.activation) == ("gate", type(gate).__name__.lower())
    assert "gate" in left.reason


def test_gates_as_functions() -> None:
    student = stocnoise.convert(Attention(), X)
    assert len(layers(student)) == 1
    assert [item.activation for item in conversion_of(student).left] == ["softmax", "tanh"]


def test_a_type_is_no_substring_of_a_name() -> None:
    class ReLULike(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    teacher = nn.Sequential(nn.Conv2d(4, 4, 1), ReLULike(), nn.ReLU6())
    assert names(teacher, X, include=nn.ReLU) == []
    assert names(teacher, X) == ["1", "2"]


def test_a_subclass_of_an_activation_keeps_its_behaviour() -> None:
    class Shifted(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) - 1

    teacher = nn.Sequential(nn.Conv2d(4, 4, 1), Shifted())
    student = stocnoise.convert(teacher, X)
    assert len(layers(student)) == 1
    assert_same_function(teacher, student, X)
