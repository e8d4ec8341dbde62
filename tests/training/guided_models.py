"""Networks, steps and looks at passes for the tests of guides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import training_models as tiny
from torch import Tensor, nn

from stocnoise import PGD, Step
from stocnoise.tasks import Task
from stocnoise.training.step import TaskLoss

ATTACK = PGD(eps=0.1, steps=2)


def network(outputs: int = 3, seed: int = 0, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def plain(seed: int = 1, width: int = 4) -> nn.Sequential:
    """A teacher like `tiny.student`, without noise."""
    return tiny.student(lambda channels, activation: nn.ReLU(), seed=seed, width=width)


def step(model: nn.Module, task: Task | None = None, y: Tensor | None = None, **settings: Any) -> Step:
    x, labels = tiny.data(8).tensors
    if task is not None:
        settings |= {"task": task, "criterion": TaskLoss(task), "attack": replace(ATTACK, task=task)}
    return Step(model, x.double(), labels if y is None else y, **({"attack": ATTACK} | settings))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@contextmanager
def training_passes(model: nn.Module) -> Iterator[list[int]]:
    """The rows of each pass in training mode."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, x: rows.append(len(x[0])) if module.training else None)
    yield rows
    handle.remove()
