"""Models that expect normalised images, attacked in pixel space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """f((x − mean_c) / std_c), x in [0, 1] with its channels along dimension 1; see `normalized`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(0 < s < float("inf") for s in std):
            raise ValueError(f"mean and std need one entry per channel, std positive, not {mean} and {std}")
        self.model = model
        first = next(model.parameters(), torch.empty(0))
        self.register_buffer("mean", torch.tensor(mean, device=first.device), persistent=False)
        self.register_buffer("std", torch.tensor(std, device=first.device), persistent=False)
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        if x.dim() < 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"mean has {len(self.mean)} channels but the images have shape {tuple(x.shape)}")
        shape = [1, -1] + [1] * (x.dim() - 2)
        return self.model((x - self.mean.to(x).view(shape)) / self.std.to(x).view(shape))


def normalized(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalized:
    """A model of pixels in [0, 1] from one that expects (x − mean_c) / std_c: then ε is in pixels.

    The model itself is inside, not copied, so its noise, modes and weights are one and the same. For a timm model the
    figures are `model.pretrained_cfg["mean"]` and `["std"]`.
    """
    return Normalized(model, tuple(mean), tuple(std))
