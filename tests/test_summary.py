"""The table of a student: what it says, and that it reads well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import stocnoise


class Gated(nn.Module):
    """A shared ReLU, a squeeze-and-excitation gate, a functional GELU, and an activation that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.gate = nn.Sigmoid()
        self.unused = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(x * self.gate(x.mean((2, 3), keepdim=True)))
        return nn.functional.gelu(x.flatten(2).mean(2))


@pytest.fixture
def student() -> nn.Module:
    return stocnoise.convert(Gated(), torch.zeros(2, 3, 8, 8), exclude="gelu")


def test_rows_are_data(student: nn.Module) -> None:
    stocnoise.calibrate(student, [torch.randn(4, 3, 8, 8)], batches=1)
    summary = stocnoise.summary(student)
    assert [(row.layer, row.kind, row.site, row.channels) for row in summary.rows] == [
        ("relu_0", "shared", "relu", 8),
        ("relu_1", "shared", "relu", 8),
    ]
    assert all(row.batches == 1 and row.sigma > 0 and row.gamma == pytest.approx(0.01) for row in summary.rows)


def test_what_was_left_alone_is_listed_with_its_reason(student: nn.Module) -> None:
    left = {(item.name, item.activation): item.reason for item in stocnoise.summary(student).left}
    assert left["gelu", "gelu"] == "excluded"
    assert "gate" in left["gate", "sigmoid"]
    assert "never called" in left["unused", "relu6"]


def test_it_prints_as_a_table(student: nn.Module) -> None:
    lines = str(stocnoise.summary(student)).splitlines()
    assert lines[0] == "Gated: 2 stochastic layers (2 shared)"
    assert lines[2].split() == ["layer", "kind", "activation", "C", "dim", "γ", "mean", "σ", "batches"]
    assert lines[4].split() == ["relu_0", "shared", "relu", "8", "1", "0.01", "0", "0"]
    assert "left alone:" in lines


def test_layers_made_by_hand_are_listed_too() -> None:
    summary = stocnoise.summary(nn.Sequential(nn.Linear(3, 4), stocnoise.StocReLUEMA(4)))
    assert [(row.layer, row.activation, row.channels) for row in summary.rows] == [("1", "relu", 4)]
