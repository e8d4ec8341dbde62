"""Several labels a row: logits (B, C), targets (B, C) of 0 and 1, each a question of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.tasks.binary import mean_logit
from stocnoise.tasks.targets import zeros_and_ones
from stocnoise.tasks.task import Task


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the labels of −log σ((2y_c − 1)·z_c)."""
    return F.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="none").mean(1)


def _units(logits: Tensor, y: Tensor) -> Tensor:
    return ((logits > 0) != (y > 0.5)).float()


def _read_target(y: Tensor) -> Tensor:
    if y.dim() != 2:
        raise ValueError(f'task="multilabel" takes targets of shape (batch, labels), not {tuple(y.shape)}')
    return zeros_and_ones(y, "multilabel")


def _check(logits: Tensor, y: Tensor | None) -> None:
    if logits.dim() != 2:
        raise ValueError(f'task="multilabel" takes logits of shape (batch, labels), not {tuple(logits.shape)}')
    if y is not None and y.shape != logits.shape:
        raise ValueError(
            f'task="multilabel": targets of shape {tuple(y.shape)} do not fit logits of shape {tuple(logits.shape)}'
        )


MULTILABEL = Task(
    loss=_loss,
    wrong=lambda logits, y: _units(logits, y).mean(1),
    average=mean_logit,
    probabilities=torch.sigmoid,
    classes=lambda p: torch.stack([1 - p, p], 1),
    decide=lambda logits: (logits > 0).long(),
    logits=lambda logits: torch.stack([-logits / 2, logits / 2], 1),
    units=_units,
    read_target=_read_target,
    check=_check,
    link="sigmoid",
    name="multilabel",
)
