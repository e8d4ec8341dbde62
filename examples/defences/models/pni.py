"""Parametric noise injection (PNI-W): Gaussian noise on the weights of every layer, its size trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "PNI (weights)"
SOURCE = "He, Rakin, Fan, CVPR 2019"
CLAIMED = "PGD-7, one draw a gradient"


class WeightNoise(nn.Module):
    """w + α·σ_w·z, z ~ N(0, 1) for each weight, σ_w the standard deviation of w, α trained; one draw a pass."""

    one_draw_a_pass = True

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.25))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.alpha * weight.detach().std() * torch.randn_like(weight)


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    for module in list(teacher.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(module, "weight", WeightNoise().to(module.weight.device))
    return teacher


def training(scale: Scale) -> dict[str, Any]:
    """Half clean, half adversarial loss; adversarial examples of the model's own prediction."""
    return {"objective": "mixed", "attack_target": "prediction"}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=7)
