"""The networks: He et al.'s ResNets for small images, and the paper's ResNet-18."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions beside an identity, or beside a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem and stages of `blocks`, each but the first at half the size and twice the width of the one before.

    Source: He et al., CVPR 2016, section 4.2.
    """

    def __init__(self, blocks: tuple[int, ...], width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        widths = [width, *(width << i for i in range(len(blocks)))]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        Block(widths[i] if first else widths[i + 1], widths[i + 1], 2 if first and i else 1)
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


_BLOCKS = {"resnet8": (1, 1, 1), "resnet20": (3, 3, 3), "resnet18": (2, 2, 2, 2)}


def network(name: str, width: int, channels: int, classes: int) -> nn.Module:
    """ "resnet8" and "resnet20" have three stages; "resnet18" four, with width 64 the paper's network for CIFAR."""
    if name not in _BLOCKS:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(_BLOCKS)}")
    return ResNet(_BLOCKS[name], width, channels, classes)
