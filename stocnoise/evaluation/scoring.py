"""Attack success on fresh draws, with intervals that cover images and draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stocnoise.attacks.base import Target, check_input

_Z = 1.959964  # 97.5 % quantile of N(0, 1)


class Rate(NamedTuple):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """Whether n images are classified correctly: by each draw of the noise (n, draws), and by the mean softmax (n,)."""

    correct: Tensor
    averaged: Tensor

    @property
    def p(self) -> Tensor:
        """The share of draws that are correct, (n,)."""
        return self.correct.double().mean(1)

    @property
    def vote(self) -> Tensor:
        """Whether more than half of the draws are correct, (n,)."""
        return self.p > 0.5

    @staticmethod
    def cat(parts: list[Score]) -> Score:
        return Score(torch.cat([part.correct for part in parts]), torch.cat([part.averaged for part in parts]))


def score(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> Score:
    """Classify x `draws` times with noise that no attack has seen. The model is in the mode it is to be judged in.

    Raises:
        ValueError: images outside [0, 1], labels out of range, or a model that does not return logits.
    """
    logits = Target(model, x.dtype, draws, check_input(x, y)).logits(x)
    averaged = logits.softmax(2).mean(0).argmax(1) == y
    return Score((logits.argmax(2) == y).T.cpu(), averaged.cpu())


def ratio(hits: Tensor, weights: Tensor) -> Rate:
    """Σ a_i / Σ b_i with a 95 % interval over images and draws; NaN if all b are zero.

    Each a_i carries the noise of its own draws, so the spread between images holds both errors:
    Var ≈ n/(n−1) · Σ (a_i − R·b_i)² / (Σ b_i)². The interval is Wilson's at the sample size R(1−R)/Var (Korn & Graubard
    1998), which stays honest at 0 and 1, where there is no spread: there the sample size is Σ b_i.
    """
    n, total = len(hits), weights.sum().item()
    if total <= 0:
        return Rate(math.nan, math.nan, math.nan)
    value = min(max(hits.sum().item() / total, 0.0), 1.0)
    variance = n / max(n - 1, 1) * ((hits - value * weights) ** 2).sum().item() / total**2
    size = total if variance == 0 or n == 1 else value * (1 - value) / variance
    return wilson(value, size)


def wilson(value: float, size: float) -> Rate:
    """Wilson's 95 % interval of a proportion seen in `size` independent trials."""
    z2 = _Z * _Z
    centre = (value + z2 / (2 * size)) / (1 + z2 / size)
    half = _Z / (1 + z2 / size) * math.sqrt(value * (1 - value) / size + z2 / (4 * size * size))
    return Rate(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


class Successes(NamedTuple):
    """ASR = Σ hits / Σ weights: what each image adds to both sums, (n,) each."""

    hits: Tensor
    weights: Tensor

    @property
    def rate(self) -> Rate:
        return ratio(self.hits, self.weights)


def successes(clean: Score, attacked: Score) -> Successes:
    """The paper's ASR = P(f(x+δ) ≠ y | f(x) = y).

    Both events are random for a stochastic f. Their draws are independent given the image, so the joint probability of
    image i is p_i·(1 − q_i), with p_i and q_i the probabilities that it is classified correctly before and after, and
    ASR = Σ p_i·(1 − q_i) / Σ p_i.
    """
    p = clean.p
    return Successes(p * (1 - attacked.p), p)


def vote_successes(clean: Score, attacked: Score) -> Successes:
    """ASR against the majority vote of the draws."""
    return _flips(clean.vote, attacked.vote)


def averaged_successes(clean: Score, attacked: Score) -> Successes:
    """ASR against the mean softmax over the draws."""
    return _flips(clean.averaged, attacked.averaged)


def _flips(before: Tensor, after: Tensor) -> Successes:
    return Successes((before & ~after).double(), before.double())


def any_successes(clean: Score, attacked: Score) -> Successes:
    """ASR if one misclassified draw of all is enough."""
    p = clean.p
    return Successes(p * (~attacked.correct.all(1)).double(), p)


def worst_case(clean: Score, attacked: list[Score]) -> tuple[Successes, Tensor, Score]:
    """ASR against the best of several attacks for each image; also which that is, (n,), and its score.

    The best is chosen by one half of the draws and scored by the other: the maximum of several noisy estimates would be
    too high. A single draw (a deterministic model) does both.
    """
    correct = torch.stack([each.correct for each in attacked])
    draws = correct.shape[2]
    chosen = correct[:, :, : max(1, draws // 2)].double().mean(2).argmin(0)
    images = torch.arange(len(chosen))
    averaged = torch.stack([each.averaged for each in attacked])[chosen, images]
    left = Score(correct[chosen, images, draws // 2 :], averaged)
    p = clean.p
    return Successes(p * (1 - left.p), p), chosen, left


def difference(first: Successes, second: Successes) -> tuple[float, float]:
    """ASR of `first` minus that of `second` on the same images, and its standard error."""
    total = first.weights.sum().item(), second.weights.sum().item()
    if min(total) <= 0:
        return math.nan, math.nan
    parts = [
        (each.hits - each.hits.sum() / t * each.weights) / t for each, t in zip((first, second), total, strict=True)
    ]
    value = (first.hits.sum() / total[0] - second.hits.sum() / total[1]).item()
    n = len(first.hits)
    return value, math.sqrt(n / max(n - 1, 1) * ((parts[0] - parts[1]) ** 2).sum().item())
