"""Activations and gates told from the values of a function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.conversion.finding.behaviour import of_function

SHAPE = (2, 5, 6, 6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x * torch.sigmoid(1.702 * x), "activation"),
        (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "activation"),
        (lambda x: x.clamp(min=0), "activation"),
        (lambda x: x.clamp(0, 6), "activation"),  # relu6
        (lambda x: torch.sin(30 * x), "activation"),
        (lambda x: x + torch.sin(x) ** 2, "activation"),
        (lambda x: x * F.relu6(x + 3) / 6, "activation"),
        (lambda x: F.relu(x) ** 2, "activation"),
        (lambda x: torch.maximum(x, torch.linspace(-1, 1, 5).view(-1, 1, 1)), "activation"),
        (lambda x: torch.where(x > 0, x, 0.2 * x), "activation"),
        (lambda x: F.relu6(x + 3) / 6, "gate"),
        (torch.sigmoid, "gate"),
        (torch.tanh, "gate"),
        (torch.erf, "gate"),
        (lambda x: 1 / (1 + torch.exp(-x)), "gate"),
        (lambda x: 3 * x + 1, "linear"),
        (lambda x: x * torch.linspace(0, 2, 5).view(-1, 1, 1), "linear"),
        (torch.zeros_like, "linear"),
        (torch.round, None),
        (torch.sign, None),
        (lambda x: (x > 0).double(), None),
        (lambda x: x.softmax(1), None),
        (lambda x: F.layer_norm(x, x.shape[1:]), None),
        (lambda x: F.dropout(x, 0.5), None),
        (lambda x: x.roll(1, 2), None),
        (lambda x: x.flip(1), None),
        (lambda x: F.relu(x - x.mean(1, keepdim=True)), None),
        (lambda x: F.relu(x).sum(1), None),
        (lambda x: torch.log(x), None),
        (lambda x: x.shape, None),
        (lambda x: x @ x, None),
    ],
)
def test_what_a_function_does(function: Callable[[Tensor], Tensor], expected: str | None) -> None:
    torch.manual_seed(0)
    assert of_function(function, SHAPE) == expected


@pytest.mark.parametrize("shape", [(2, 3), (4, 197, 768), (2, 64, 112, 112), (1, 8, 4, 4, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert of_function(F.silu, shape) == "activation"
    assert of_function(torch.sigmoid, shape) == "gate"
    assert of_function(lambda x: x.softmax(-1), shape) is None
