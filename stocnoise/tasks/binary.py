"""Yes or no: one logit (B,) or (B, 1), labels of 0 and 1 of either shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.tasks.targets import zeros_and_ones
from stocnoise.tasks.task import Task


def mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean over the draws of σ(z), (draws, B, …) → (B, …), finite where each σ(z) rounds to 1."""
    return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)


def _column(v: Tensor) -> Tensor:
    return v.reshape(len(v))


def _loss(logit: Tensor, y: Tensor) -> Tensor:
    """−log σ((2y − 1)·z)."""
    return F.binary_cross_entropy_with_logits(_column(logit), y.to(logit), reduction="none")


def _wrong(logit: Tensor, y: Tensor) -> Tensor:
    return (_column(logit) > 0) != (y > 0.5)


def _margin(logit: Tensor, y: Tensor) -> Tensor:
    """−(2y − 1)·z."""
    return _column(logit) * (1 - 2 * y.to(logit))


def _read_target(y: Tensor) -> Tensor:
    if y.dim() not in (1, 2) or (y.dim() == 2 and y.shape[1] != 1):
        raise ValueError(f'task="binary" takes labels of shape (batch,) or (batch, 1), not {tuple(y.shape)}')
    return _column(zeros_and_ones(y, "binary"))


def _check(logit: Tensor, y: Tensor | None) -> None:
    if logit.dim() not in (1, 2) or (logit.dim() == 2 and logit.shape[1] != 1):
        raise ValueError(
            f'task="binary" takes one logit a row, (batch,) or (batch, 1), but the model returns shape '
            f'{tuple(logit.shape)}: for a column a class say task="multiclass", for several labels "multilabel"'
        )


BINARY = Task(
    loss=_loss,
    wrong=_wrong,
    average=mean_logit,
    probabilities=torch.sigmoid,
    classes=lambda p: torch.stack([1 - _column(p), _column(p)], 1),
    decide=lambda logit: (_column(logit) > 0).long(),
    logits=lambda logit: torch.stack([-_column(logit) / 2, _column(logit) / 2], 1),
    margin=_margin,
    read_target=_read_target,
    check=_check,
    one_class=True,
    link="sigmoid",
    name="binary",
)
