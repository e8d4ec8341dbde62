"""What a stochastic model says when it is asked more than once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stocnoise.attacks.base import Target, attack_mode


class Prediction(NamedTuple):
    """Answers of `samples` passes for B inputs and C classes."""

    probabilities: Tensor
    """(B, C), the mean of softmax over the passes; its argmax is the averaged prediction."""
    spread: Tensor
    """(B, C), the standard deviation of softmax over the passes (zero for a single one)."""
    vote: Tensor
    """(B,) int64, the class that most passes chose; of several, the one with the highest mean probability."""
    agreement: Tensor
    """(B,), the share of passes that chose `vote`."""


def predict(model: nn.Module, x: Tensor, samples: int = 16) -> Prediction:
    """Mean probabilities, spread and vote of `samples` passes, each with its own noise.

    Passes are stacked along the batch as far as memory allows, up to about a million input elements at once. The model
    runs in eval mode without gradients and is left in the mode it was in.

    Args:
        model: returns class logits (B, C).
        x: inputs (B, …), as the model expects them.
        samples: number of passes, at least 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if len(x) == 0:
        raise ValueError("the batch is empty")
    with attack_mode(model):
        probabilities = Target(model, x.dtype, samples).logits(x).softmax(2)
    mean = probabilities.mean(0)
    counts = probabilities.new_zeros(mean.shape)
    for choice in probabilities.argmax(2):
        counts.scatter_add_(1, choice[:, None], counts.new_ones(len(x), 1))
    vote = (counts + mean / 2).argmax(1)
    return Prediction(mean, probabilities.std(0, correction=0), vote, counts.amax(1) / samples)
