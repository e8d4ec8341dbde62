"""ANIS²: this library's own student, with its noise on every activation growing while it trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import stocnoise
from examples.paper.scale import Scale
from stocnoise import BIM, Attack

TITLE = "ANIS²"
SOURCE = "Tan, Elovici, Binder, ICPR 2020"
CLAIMED = "BIM-20, one draw a gradient"


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    return stocnoise.convert(teacher, x)


def training(scale: Scale) -> dict[str, Any]:
    gamma = scale.training.gamma
    return {"objective": "at", "gamma": stocnoise.GammaSchedule(init=min(0.01, gamma), max=gamma)}


def attack(model: nn.Module, eps: float) -> Attack:
    return BIM(eps=eps, steps=20)
