"""A label at every pixel: logits (B, C, H, W), labels (B, H, W), some of which do not count."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.checks import check_whole
from stocnoise.tasks.targets import integers
from stocnoise.tasks.task import Task, unchanged


def segmentation(ignore_index: int = -100) -> Task:
    """The task "segmentation", with another `ignore_index`, such as 255: the label of pixels that do not count.

    A row is wrong to the share of its counted pixels that are; the loss is the mean cross-entropy of the counted
    pixels. The shape after the batch and the classes may have any number of dimensions.

    Example:
        >>> task = stocnoise.tasks.segmentation(ignore_index=255)
    """
    check_whole("ignore_index", ignore_index, least=-(2**63))
    return Task(
        loss=partial(_loss, ignored=ignore_index),
        wrong=lambda logits, y: _units(logits, y, ignore_index).nanmean(1).nan_to_num(0.0),
        average=lambda outputs: outputs.softmax(2).mean(0),
        probabilities=lambda logits: logits.softmax(1),
        classes=unchanged,
        decide=lambda logits: logits.argmax(1),
        logits=unchanged,
        units=partial(_units, ignored=ignore_index),
        overlaps=partial(_overlaps, ignored=ignore_index),
        read_target=partial(integers, task="segmentation", dims=2, ignored=ignore_index),
        check=partial(_check, ignored=ignore_index),
        link="softmax",
        name="segmentation",
    )


def _loss(logits: Tensor, y: Tensor, ignored: int) -> Tensor:
    pixels = F.cross_entropy(logits, y, reduction="none", ignore_index=ignored).flatten(1)
    return pixels.sum(1) / (y.flatten(1) != ignored).sum(1).clamp_min(1)


def _units(logits: Tensor, y: Tensor, ignored: int) -> Tensor:
    wrong = (logits.argmax(1) != y).float()
    return wrong.masked_fill(y == ignored, torch.nan).flatten(1)


def _overlaps(logits: Tensor, y: Tensor, ignored: int) -> Tensor:
    """(B, C, 2): pixels where answer and label are both the class, and where either is."""
    classes = logits.shape[1]
    counted = (y != ignored).flatten(1)
    answer = F.one_hot(logits.argmax(1).flatten(1), classes).bool() & counted[..., None]
    label = F.one_hot(y.masked_fill(y == ignored, 0).flatten(1), classes).bool() & counted[..., None]
    return torch.stack([(answer & label).sum(1), (answer | label).sum(1)], 2)


def _check(logits: Tensor, y: Tensor | None, ignored: int) -> None:
    if logits.dim() < 3:
        raise ValueError(
            f'task="segmentation" takes logits of shape (batch, classes, height, width), not {tuple(logits.shape)}'
        )
    if y is None:
        return
    if y.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f'task="segmentation": labels of shape {tuple(y.shape)} do not fit logits of shape {tuple(logits.shape)}; '
            "output= may be a function that brings the logits to the labels' size"
        )
    if y.numel() and (largest := int(y.masked_fill(y == ignored, 0).max())) >= logits.shape[1]:
        raise ValueError(
            f"label {largest} is out of range: the model has {logits.shape[1]} classes. If it marks pixels that do not "
            f"count: task=stocnoise.tasks.segmentation(ignore_index={largest})"
        )


SEGMENTATION = segmentation()
