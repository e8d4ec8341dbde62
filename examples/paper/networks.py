"""The networks: He et al.'s ResNets for small images, and the paper's ResNet-18."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Padded(nn.Module):
    """He et al.'s option A, no weights: every second pixel, zeros in the new channels, half before and half after."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projected(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Their option B: a 1×1 convolution."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


Shortcut = Callable[[int, int, int], nn.Module]


class Block(nn.Module):
    """Two 3×3 convolutions beside an identity, or beside a shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem and stages of `blocks`, each but the first at half the size and twice the width of the one before.

    Source: He et al., CVPR 2016, section 4.2.
    """

    def __init__(
        self, blocks: tuple[int, ...], width: int, channels: int, classes: int, shortcut: Shortcut = projected
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        widths = [width, *(width << i for i in range(len(blocks)))]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        Block(widths[i] if first else widths[i + 1], widths[i + 1], 2 if first and i else 1, shortcut)
                        for first in [True] + [False] * (count - 1)
                    )
                )
                for i, count in enumerate(blocks)
            )
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stages(F.relu(self.bn(self.conv(x))))
        return self.head(out.mean((2, 3)))


_BLOCKS = {"resnet8": (1, 1, 1), "resnet20": (3, 3, 3), "resnet20-a": (3, 3, 3), "resnet18": (2, 2, 2, 2)}


def network(name: str, width: int, channels: int, classes: int) -> nn.Module:
    """One of the ResNets, by name.

    "resnet8" and "resnet20" have three stages; "resnet18" four, with width 64 the paper's network for CIFAR.
    "resnet20-a" has shortcuts without weights, as public weights for CIFAR-10 have them.
    """
    if name not in _BLOCKS:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(_BLOCKS)}")
    return ResNet(_BLOCKS[name], width, channels, classes, Padded if name.endswith("-a") else projected)


_THEIRS = {"conv1.": "conv.", "bn1.": "bn.", "linear.": "head.", "fc.": "head."}


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of `ResNet`, from those that public CIFAR ResNets commonly have: layer1.0.…, linear.…."""

    def ours(name: str) -> str:
        for theirs, here in _THEIRS.items():
            if name.startswith(theirs):
                return here + name.removeprefix(theirs)
        return re.sub(r"^layer(\d)\.", lambda stage: f"stages.{int(stage[1]) - 1}.", name)

    return {ours(name): value for name, value in weights.items()}
