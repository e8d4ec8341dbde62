"""Models and comparisons for the checks that run in each process of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import training_models as tiny
from accelerate.utils import gather_object
from torch import Tensor, nn

import stocnoise
from stocnoise import StocReLUEMA, stochastic_layers
from stocnoise.training import Best, checkpoints


def without_batch_norm(gamma: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), StocReLUEMA(4, gamma=gamma), nn.Conv2d(4, 5, 3), StocReLUEMA(5, gamma=gamma),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def halves() -> tuple[Tensor, Tensor]:
    """Uneven on purpose: 5 and 7 images."""
    images = tiny.data(12).tensors[0]
    return images[:5], images[5:]


def sigmas(model: nn.Module) -> Tensor:
    return torch.cat([layer.sigma.detach().clone() for _, layer in stochastic_layers(model)])


def agree(value: Tensor) -> bool:
    return len({tuple(v) for v in gather_object([value.flatten().tolist()])}) == 1


def best_of(history: stocnoise.History) -> Best:
    assert history.best is not None
    return history.best


def after_epoch(folder: Path, epoch: int) -> dict[str, Tensor]:
    """A student as the checkpoint of an epoch, one of the last two, holds it; γ aside, the next epoch's by then."""
    state = checkpoints.read(checkpoints.Checkpoints(folder).paths()[epoch - 1])["model"]
    return without_gamma(state)


def without_gamma(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("gamma")}


class Interrupt(stocnoise.Callback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, run: Any) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt
