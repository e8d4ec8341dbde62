"""What an attack maximises: functions (logits (B, C), y (B,)) → one loss per row (B,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log softmax(z)_y; y holds labels (B,) or probabilities (B, C)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y: positive where the row is misclassified (Carlini & Wagner 2017).

    Its gradient does not vanish where a network is sure of itself, as that of the cross-entropy does.
    """
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3), for three classes or more.

    Unchanged when logits are shifted or scaled. Source: Croce & Hein, ICML 2020, equation 6.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}: use margin")
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + 1e-12)
