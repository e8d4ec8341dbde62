"""Gaussian noise on the image, in training and in use."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import stocnoise
from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "noise on the input"
SOURCE = "after Zantedeschi, Nicolae, Rawat, AISec 2017"
CLAIMED = "PGD-20, one draw a gradient"

SIGMA = 0.1


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    return stocnoise.with_input_noise(teacher, SIGMA)


def training(scale: Scale) -> dict[str, Any]:
    return {"objective": "at"}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=20)
