"""A network without noise, plain steps, and a look at each pass, for the tests of AWP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import training_models as tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import AWP, Step
from stocnoise.attacks import BIM
from stocnoise.training.objectives import at

GAMMA = 0.1
FIXED = BIM(eps=0.1, steps=2)


def plain(seed: int = 0) -> nn.Sequential:
    """Without noise and BatchNorm, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()


def images(n: int, batch_size: int) -> DataLoader[Any]:
    x, y = tiny.data(n).tensors
    return DataLoader(TensorDataset(x.double(), y), batch_size)


def sgd(lr: float) -> dict[str, Any]:
    """Plain steps of one length."""
    return {
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=lr),
        "weight_decay": 0.0,
        "scheduler": lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }


def run(model: nn.Module, loader: Any = None, **settings: Any) -> stocnoise.History:
    given: dict[str, Any] = {"epochs": 1, "attack": FIXED, "awp": AWP(GAMMA)} | sgd(0.1)
    return tiny.finetune(model, images(16, 8) if loader is None else loader, **given | settings)


class Watched:
    """An objective that notes the images of each pass, the loss, and the weights that it was taken at."""

    def __init__(self, objective: Callable[[Step], Tensor] = at) -> None:
        self.objective = objective
        self.images: list[tuple[Tensor, ...]] = []
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, step: Step) -> Tensor:
        loss = self.objective(step)
        self.images.append(step.images)
        self.losses.append(loss.item())
        self.weights.append({name: w.detach().clone() for name, w in step.model.named_parameters()})
        return loss


class FirstPass:
    """at, but for the first pass of some steps, of which it makes something else."""

    def __init__(self, change: Callable[[Tensor], Tensor], steps: tuple[int, ...]) -> None:
        self.change = change
        self.steps = steps
        self.calls = 0

    def __call__(self, step: Step) -> Tensor:
        number, second = divmod(self.calls, 2)
        self.calls += 1
        return self.change(at(step)) if not second and number in self.steps else at(step)
