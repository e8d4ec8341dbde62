"""Targets as people give them: labels of any integer type, of 0 and 1, in a column."""

from __future__ import annotations

import torch
from torch import Tensor


def integers(y: Tensor, task: str, dims: int = 1, ignored: int | None = None) -> Tensor:
    """Labels as int64, at least 0 (or `ignored`), with `dims` dimensions at least.

    Raises:
        ValueError: they are not.
    """
    if y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"labels of type {y.dtype} and shape {tuple(y.shape)} are no classes: task={task!r} takes integers; "
            'for one logit and labels of 0.0 or 1.0 say task="binary", for several labels a row task="multilabel"'
        )
    if y.dim() < dims or (dims == 1 and y.dim() != 1):
        shape = "(batch,)" if dims == 1 else "(batch, height, width)"
        raise ValueError(f"labels must have shape {shape} for task={task!r}, not {tuple(y.shape)}")
    y = y.long()
    low = y if ignored is None else y.masked_fill(y == ignored, 0)
    if y.numel() and (least := int(low.min())) < 0:
        raise ValueError(f"label {least} is out of range: labels start at 0")
    return y


def zeros_and_ones(y: Tensor, task: str) -> Tensor:
    """Labels of 0 and 1, of any type, as float32 (float64 for float64).

    Raises:
        ValueError: they are not.
    """
    values = y if y.dtype == torch.float64 else y.float()
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(f"task={task!r} takes labels of 0 and 1; these span {values.min():.3g} to {values.max():.3g}")
    return values
