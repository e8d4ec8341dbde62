"""A small model that has every kind of site, and its calibrated student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise


class Small(nn.Module):
    """A module called once, one called twice, and functional calls, with channels in the second and the last place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(16, 12)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x))
        x = F.gelu(self.fc1(x.flatten(2).transpose(1, 2)))
        return self.fc2(x.mean(1))


SITES = 4


def small_student(gamma: float = 0.1, training: bool = False) -> nn.Module:
    """A student of `Small` whose σ has been filled."""
    torch.manual_seed(0)
    student = stocnoise.convert(Small(), torch.zeros(2, 3, 8, 8), gamma=gamma)
    stocnoise.calibrate(student, [images()], batches=4)
    return student.train(training)


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sigmas(student: nn.Module) -> list[Tensor]:
    return [layer.sigma.clone() for _, layer in stocnoise.stochastic_layers(student)]
