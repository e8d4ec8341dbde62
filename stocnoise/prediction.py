"""What a stochastic model says when it is asked more than once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import Target
from stocnoise.batches import Others, check_others
from stocnoise.checks import check_model, check_tensor, check_whole
from stocnoise.tasks import OutputReader, TaskLike, as_task


class Prediction(NamedTuple):
    """Answers of `samples` passes for B inputs; C classes in the default task.

    | task | probabilities, spread | vote, agreement |
    |---|---|---|
    | multiclass | (B, C), softmax | (B,) |
    | binary | (B,) or (B, 1) as the logits, sigmoid: of label 1 | (B,) |
    | multilabel | (B, C), sigmoid of each label | (B, C) |
    | segmentation | (B, C, H, W), softmax at each pixel | (B, H, W) |
    | one's own | as the output, which is averaged itself unless the task says how | None without `classes` |
    """

    probabilities: Tensor
    """The mean of the probabilities over the passes; their argmax is the averaged prediction."""
    spread: Tensor
    """The standard deviation of the probabilities over the passes (zero for a single one)."""
    vote: Tensor | None
    """int64, the class that most passes chose; of several, the one with the highest mean probability."""
    agreement: Tensor | None
    """The share of passes that chose `vote`."""


@torch.no_grad()
def predict(
    model: nn.Module,
    x: Tensor,
    samples: int = 16,
    *,
    task: TaskLike = "multiclass",
    output: OutputReader | None = None,
    others: Others | None = None,
) -> Prediction:
    """Mean probabilities, spread and vote of `samples` passes, each with its own noise.

    Passes are stacked along the batch as far as memory allows, up to about a million input elements at once. The model
    runs in eval mode without gradients and is left in the mode it was in; modules that were left in training inside a
    model in eval mode (dropout as noise at test time) stay so.

    Args:
        model: returns what `task` takes; class logits (B, C) by default.
        x: inputs (B, …), as the model expects them.
        samples: number of passes, at least 1.
        task: what the output means; see `Task`.
        output: what of the model's answer is the output: a key or attribute, an index, or a function.
        others: the model's other inputs, passed on as they are.

    Raises:
        ValueError: an output that the task does not take, an empty batch, or `samples` below 1.

    Example:
        >>> prediction = stocnoise.predict(student, images, samples=8)
        >>> prediction.probabilities.shape, prediction.vote.shape
        (torch.Size([4, 10]), torch.Size([4]))
    """
    check_model("model", model)
    check_whole("samples", samples)
    check_tensor("x", x)
    check_others(others)
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x, of shape {tuple(x.shape)}, has no rows: the batch is empty")
    asked = as_task(task, output)
    with attack_mode(model):
        outputs = Target(model, x.dtype, samples, asked, others=others).outputs(x)
    probabilities = asked.probabilities(outputs.flatten(0, 1)).unflatten(0, (samples, len(x)))
    mean, spread = probabilities.mean(0), probabilities.std(0, correction=0)
    if asked.classes is None:
        return Prediction(mean, spread, None, None)
    chances = asked.classes(mean)
    counts = torch.zeros_like(chances)
    for each in probabilities:
        chosen = asked.classes(each).argmax(1)
        counts += F.one_hot(chosen, chances.shape[1]).movedim(-1, 1)
    vote = (counts + chances / 2).argmax(1)
    return Prediction(mean, spread, vote, counts.amax(1) / samples)
