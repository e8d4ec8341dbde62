"""How far apart two answers are, and attacks that drive them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from stocnoise.attacks import PGD
from stocnoise.attacks.target import Loss
from stocnoise.tasks import Task
from stocnoise.training.step import Step


def kl_divergence(logits: Tensor, log_probabilities: Tensor) -> Tensor:
    """KL(p ‖ softmax(z)) of each row, shape (B,); log p (B, K, …), the mean over further dimensions."""
    return _over_rows(F.kl_div(F.log_softmax(logits, 1), log_probabilities, reduction="none", log_target=True))


def squared_distance(output: Tensor, goal: Tensor) -> Tensor:
    """‖output − goal‖² of each row, shape (B,): the sum over dimension 1, the mean over further dimensions."""
    return _over_rows((output - goal).square())


def _over_rows(pointwise: Tensor) -> Tensor:
    summed = pointwise if pointwise.dim() == 1 else pointwise.sum(1)
    return summed if summed.dim() == 1 else summed.flatten(1).mean(1)


def classes_of(task: Task, objective: str) -> Callable[[Tensor], Tensor]:
    """Output → logits (B, K, …) of classes; ValueError if the task has none."""
    if task.logits is None:
        raise ValueError(f'{objective} needs a task with classes, which task={task} has not: use "at"')
    return task.logits


def attack_on(step: Step, loss: Loss, objective: str) -> PGD:
    """The run's attack, maximising `loss`.

    Raises:
        ValueError: it does not begin beside x, where the distance of an answer from itself is flat.
    """
    attack = step.attack
    if not isinstance(attack, PGD) or not attack.random_start:
        raise ValueError(f"{objective} needs an attack PGD(random_start=True): at x itself its loss is flat")
    return replace(attack, loss=loss)
