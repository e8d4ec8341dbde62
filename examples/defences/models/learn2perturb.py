"""Learn2Perturb: noise on activations whose size is trained, beside a mean of clean and adversarial loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import stocnoise
from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "Learn2Perturb"
SOURCE = "Jeddi et al., CVPR 2020"
CLAIMED = "PGD-7, one draw a gradient"


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    return stocnoise.convert(teacher, x, layer=stocnoise.StocL2P)


def training(scale: Scale) -> dict[str, Any]:
    settings = scale.training
    objective = stocnoise.Learn2Perturb(
        noise_after=settings.l2p_noise_after, adversarial_after=settings.l2p_adversarial_after
    )
    return {"objective": objective, "attack_target": "prediction", "gamma": None}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=7)
