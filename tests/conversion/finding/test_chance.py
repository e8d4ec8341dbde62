"""Layers that are skipped at random: what is found does not hang on the seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers, names

X = torch.randn(4, 8)

DRAWS = {
    "torch.rand": lambda: torch.rand([]),
    "item": lambda: torch.rand(1).item(),
    "uniform_": lambda: torch.empty(1).uniform_(0, 1),
    "random": random.random,
    "numpy": lambda: np.random.uniform(0, 1),
}


class Stack(nn.Module):
    """Layer drop, and a layer that is only there by chance in training."""

    def __init__(self, draw: Any, p: float = 0.3) -> None:
        super().__init__()
        self.draw, self.p = draw, p
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(6)])
        self.extra = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and self.draw() < self.p:
                continue
            x = layer(x)
        if self.training and self.draw() < 0.5:
            x = F.relu(self.extra(x))
        return x


@pytest.mark.parametrize("draw", DRAWS)
def test_the_seed_changes_nothing(draw: str) -> None:
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        found.append(set(layers(stocnoise.convert(Stack(DRAWS[draw]), X))))
    assert found[0] == found[1] == found[2]
    assert found[0] == {*(f"layers.{number}.1" for number in range(6)), "relu_0"}


def test_the_generators_are_left_as_they_were() -> None:
    for draw in DRAWS.values():
        model = Stack(draw)
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        expected = torch.rand(2), random.random(), np.random.rand()
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        names(model, X)
        assert torch.equal(torch.rand(2), expected[0])
        assert (random.random(), np.random.rand()) == expected[1:]


def test_a_student_trains_with_layers_dropped() -> None:
    student = stocnoise.convert(Stack(DRAWS["torch.rand"]), X, gamma=0.1).train()
    torch.manual_seed(0)
    for _ in range(20):
        student(X).sum().backward()
    assert all(layer.sigma.sum() > 0 for layer in layers(student).values())
