"""Adversarial training: no noise, what every other one is held against."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "AT"
SOURCE = "Madry et al., ICLR 2018"
CLAIMED = "PGD-20"


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    return teacher


def training(scale: Scale) -> dict[str, Any]:
    return {"objective": "at"}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=20)
