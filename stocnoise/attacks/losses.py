"""What an attack may maximise instead of its task's own loss: functions (output, y) → one loss per row (B,)."""

from __future__ import annotations

from torch import Tensor

from stocnoise.attacks.target import Loss, OfMean
from stocnoise.checks import check_function
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import cross_entropy, margin

__all__ = ["Loss", "cross_entropy", "dlr", "margin", "mean_probability"]

# Their public place, by which settings in checkpoints know them.
cross_entropy.__module__ = margin.__module__ = __name__


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3), for three classes or more.

    Unchanged when logits are shifted or scaled. Source: Croce & Hein, ICML 2020, equation 6.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}: use margin")
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + 1e-12)


def mean_probability(logits: Tensor, y: Tensor) -> Tensor:
    """−log of the label's mean probability over the draws: what leads a smoothed classifier astray (SmoothAdv).

    `loss=mean_probability` with `eot` draws; the task's own loss is the mean of −log instead. Here for one draw, where
    the two are one. For the tasks "multiclass" and "binary".

    Source: Salman et al., NeurIPS 2019, equation 6.
    """
    return cross_entropy(logits, y)


def check_loss(loss: Loss) -> None:
    """TypeError unless an attack can maximise it."""
    check_function("loss", loss, "(output, y), one of stocnoise.attacks.losses or your own")


def reads_labels(loss: Loss) -> bool:
    """Whether y is labels for it; a loss of the user's may take anything with a row for each input."""
    return loss in (cross_entropy, margin, dlr, mean_probability)


def loss_for(task: Task, loss: Loss, targeted: bool = False) -> Loss | OfMean:
    """The loss to maximise: for `cross_entropy`, `margin` and `mean_probability` the task's, else the given one.

    Raises:
        ValueError: the loss is one of classes, and the task has none; or it has no targeted form.
    """
    if targeted and loss is dlr:
        raise ValueError("the DLR loss of a wanted class needs the right one too: use margin for a targeted attack")
    if loss is cross_entropy:
        return task.loss
    if loss is mean_probability and task.one_class:
        return OfMean(task.loss)
    if task.a_column_a_class or not reads_labels(loss):
        return loss
    if loss is margin and task.margin is not None:
        return task.margin
    raise ValueError(f"the loss {loss.__name__} is one of classes, which task={task} has not: leave out loss=")
