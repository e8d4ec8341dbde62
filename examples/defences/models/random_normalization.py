"""A random choice of the normalisation in every layer and pass, as in random normalisation aggregation (RNA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "random normalisation (RNA-like)"
SOURCE = "Dong et al., NeurIPS 2022"
CLAIMED = "PGD-20, one choice a gradient"

GROUPS = (1, 2, 4)
"""Of the group normalisations to choose from, beside batch normalisation. With one channel a group, as the paper has it
too, training diverges on maps of a few pixels.
"""


class RandomNorm(nn.Module):
    """One of several normalisations, drawn for each pass; each has weights of its own, at first those of `norm`."""

    one_draw_a_pass = True

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        channels = norm.num_features
        others = [nn.GroupNorm(groups, channels) for groups in GROUPS]
        with torch.no_grad():
            for other in others:
                other.weight.copy_(norm.weight)
                other.bias.copy_(norm.bias)
        self.choices = nn.ModuleList([norm, *others]).to(norm.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.choices[int(torch.randint(len(self.choices), ()))](x)
        assert isinstance(chosen, Tensor)
        return chosen


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    found = [
        (parent, name, module)
        for parent in teacher.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.BatchNorm2d)
    ]
    for parent, name, module in found:
        setattr(parent, name, RandomNorm(module))
    return teacher


def training(scale: Scale) -> dict[str, Any]:
    """Gradients are cut, since a step is of another network than the one before."""
    return {"objective": "at", "max_grad_norm": 1.0}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=20)
