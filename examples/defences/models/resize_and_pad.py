"""The image enlarged by a random factor and put at a random place on a larger black canvas."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import PGD, Attack, Transfer

TITLE = "random resize and pad"
SOURCE = "Xie et al., ICLR 2018"
CLAIMED = "made on the network without the random layers"

CANVAS = 331 / 299
"""Sides of the canvas, in those of the image, as in the paper; at least two pixels more."""


class ResizeAndPad(nn.Module):
    """Each image enlarged to sides between its own and the canvas's (nearest pixel), at its own random place."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        more = max(2, math.ceil((CANVAS - 1) * max(height, width)))
        grown = torch.randint(0, more + 1, (n,), device=x.device)
        rows, inside_rows = _sources(height, more, grown)
        columns, inside_columns = _sources(width, more, grown)
        picked = x.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
        picked = picked.gather(3, columns[:, None, None, :].expand(-1, channels, height + more, -1))
        return picked * (inside_rows[:, None, :, None] & inside_columns[:, None, None, :])


def _sources(size: int, more: int, grown: Tensor) -> tuple[Tensor, Tensor]:
    """(n, size + more): which pixel each of the canvas shows along one side, and whether it shows one at all."""
    sides = size + grown
    first = (torch.rand(len(grown), device=grown.device) * (more - grown + 1)).floor().long()
    place = torch.arange(size + more, device=grown.device) - first[:, None]
    inside = (place >= 0) & (place < sides[:, None])
    return (place * size).div(sides[:, None], rounding_mode="floor").clamp(0, size - 1), inside


class Random(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.resized, self.network = ResizeAndPad(), network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.resized(x))


def build(teacher: nn.Module, x: Tensor) -> nn.Module:
    return Random(teacher)


def training(scale: Scale) -> dict[str, Any]:
    """The paper puts the layers before a network trained adversarially; here they are there in training too."""
    return {"objective": "at"}


def attack(model: nn.Module, eps: float) -> Attack:
    """The paper's "vanilla attack", by one who does not know of the random layers."""
    assert isinstance(model, Random)
    return Transfer(source=model.network, attack=PGD(steps=20), eps=eps)
