"""One label of several classes: logits (B, C ≥ 2), labels (B,) or probabilities (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.tasks.targets import integers
from stocnoise.tasks.task import Task, unchanged


def as_labels(y: Tensor) -> Tensor:
    """Labels (B,) from labels, or from probabilities (B, C)."""
    return y.argmax(1) if y.dim() == 2 else y


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log softmax(z)_y; y holds labels (B,) or probabilities (B, C)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y: positive where the row is misclassified (Carlini & Wagner 2017).

    Its gradient does not vanish where a network is sure of itself, as that of the cross-entropy does.
    """
    own = F.one_hot(as_labels(y), logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    return logits.argmax(1) != as_labels(y)


def _read_target(y: Tensor) -> Tensor:
    if y.is_floating_point() and y.dim() == 2 and y.shape[1] > 1:
        if len(y) and not (((y.sum(1) - 1).abs() < 1e-2).all() and (y >= 0).all()):
            raise ValueError(
                f"targets of shape {tuple(y.shape)} whose rows are no probabilities (at least 0, with the sum 1): for "
                'several labels a row say task="multilabel"'
            )
        return y
    return integers(y, "multiclass")


def _check(logits: Tensor, y: Tensor | None) -> None:
    if logits.dim() != 2 or logits.shape[1] < 2:
        other = ""
        if logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1):
            other = 'for a model with one logit say task="binary", for a regression task=stocnoise.Task(loss, wrong)'
        elif logits.dim() > 2:
            other = 'for a label at each pixel say task="segmentation", for anything else task=stocnoise.Task(…)'
        raise ValueError(
            f"the model must return class logits of shape (batch, classes), two classes or more, not shape "
            f"{tuple(logits.shape)}: {other}"
        )
    if y is None or not len(y):
        return
    if y.dim() == 2:
        if y.shape != logits.shape:
            raise ValueError(f"targets of shape {tuple(y.shape)} do not fit logits of shape {tuple(logits.shape)}")
    elif int(largest := y.max()) >= logits.shape[1]:
        raise ValueError(f"label {int(largest)} is out of range: the model has {logits.shape[1]} classes")


MULTICLASS = Task(
    loss=cross_entropy,
    wrong=_wrong,
    average=lambda outputs: outputs.softmax(2).mean(0),
    probabilities=lambda logits: logits.softmax(1),
    classes=unchanged,
    decide=lambda logits: logits.argmax(1),
    logits=unchanged,
    margin=margin,
    read_target=_read_target,
    check=_check,
    one_class=True,
    link="softmax",
    name="multiclass",
)
