"""Dropout that stays on when the network is used: one random thinned network an image."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import PGD, Attack

TITLE = "dropout at test time"
SOURCE = "after Gal, Ghahramani, ICML 2016"
CLAIMED = "PGD-20, one draw a gradient"

RATE = 0.2


class AlwaysDropout(nn.Module):
    """Each element zero with probability `RATE`, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, RATE, training=True)


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    """Before every linear layer, and after every normalisation but the first, where features and not pixels are."""
    norms = [
        (parent, name, module)
        for parent in teacher.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.BatchNorm2d)
    ]
    for parent, name, module in norms[1:]:
        setattr(parent, name, nn.Sequential(module, AlwaysDropout()))
    heads = [(p, n, m) for p in teacher.modules() for n, m in p.named_children() if isinstance(m, nn.Linear)]
    for parent, name, head in heads:
        setattr(parent, name, nn.Sequential(AlwaysDropout(), head))
    return teacher


def training(scale: Scale) -> dict[str, Any]:
    return {"objective": "at"}


def attack(model: nn.Module, eps: float) -> Attack:
    return PGD(eps=eps, steps=20)
