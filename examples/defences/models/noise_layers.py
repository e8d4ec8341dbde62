"""Noise before every convolution, as in random self-ensemble (RSE); one draw is attacked and judged, no ensemble."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "noise layers (RSE-like)"
SOURCE = "Liu et al., ECCV 2018"
CLAIMED = "CW, one draw a gradient; here PGD-20 at ε in its place"

FIRST, INNER = 0.2, 0.1
"""Standard deviations of the paper, on what the network makes of its input first and on features."""


class Noise(nn.Module):
    """x + σ·z, z ~ N(0, 1) for each element, always on."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    found = [
        (parent, name, module)
        for parent in teacher.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.Conv2d)
    ]
    for number, (parent, name, module) in enumerate(found):
        setattr(parent, name, nn.Sequential(Noise(INNER if number else FIRST), module))
    return teacher


def training(scale: Scale) -> dict[str, Any]:
    """The paper trains on clean images through the noise; here adversarially, as all others."""
    return {"objective": "at"}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=20)
