"""Attack success and its intervals, which cover images and draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stocnoise.evaluation.scoring import Parts, Score

_Z = 1.959964  # 97.5 % quantile of N(0, 1)


class Rate(NamedTuple):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float


def number(value: float) -> float | None:
    """JSON has no NaN, which an ASR is when nothing was classified correctly to begin with."""
    return None if math.isnan(value) else value


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


def accuracy(score: Score) -> Rate:
    """The share of answers that are right."""
    return ratio(score.right, score.counted)


def successes(clean: Score, attacked: Score) -> Successes:
    """The paper's ASR = P(f(x+δ) ≠ y | f(x) = y).

    Both events are random for a stochastic f. Their draws are independent given the image, so the joint probability of
    image i is p_i·(1 − q_i), with p_i and q_i the probabilities that it is classified correctly before and after, and
    ASR = Σ p_i·(1 − q_i) / Σ p_i. With several answers a row the sums are over all of them.
    """
    if attacked.parts is not None:
        return Successes(attacked.parts.hits, attacked.parts.weights)
    p = clean.p
    return Successes(p * (1 - attacked.p), p)


def whole_successes(clean: Score, attacked: Score) -> Successes | None:
    """ASR of whole rows, all of whose answers were right, of a task with several answers a row."""
    if clean.parts is None or attacked.parts is None:
        return None
    p, q = (score.parts.whole.double().mean(1) for score in (clean, attacked) if score.parts is not None)
    return Successes(p * (1 - q), p)


def vote_successes(clean: Score, attacked: Score) -> Successes:
    """ASR against the majority vote of the draws."""
    return _flips(clean.vote, attacked.vote)


def averaged_successes(clean: Score, attacked: Score) -> Successes:
    """ASR against the average over the draws."""
    return _flips(clean.averaged, attacked.averaged)


def _flips(before: Tensor, after: Tensor) -> Successes:
    """Of answers that are partly right, the share of what was right that is lost."""
    if before.dtype == torch.bool:
        return Successes((before & ~after).double(), before.double())
    return Successes((before - after).clamp_min(0).double(), before.double())


def any_successes(clean: Score, attacked: Score) -> Successes:
    """ASR if one misclassified draw of all is enough."""
    p = clean.p
    return Successes(p * (1 - attacked.correct.double().amin(1)), p)


def worst_case(clean: Score, attacked: list[Score]) -> tuple[Successes, Tensor, Score]:
    """ASR against the best of several attacks for each image; also which that is, (n,), and its score.

    The best is chosen by one half of the draws and scored by the other: the maximum of several noisy estimates would be
    too high. A single draw (a deterministic model) does both.
    """
    chosen = best_of(attacked)
    best, draws = pick(attacked, chosen), attacked[0].correct.shape[1]
    left = replace(best, correct=best.correct[:, draws // 2 :])
    if best.parts is not None:
        left = replace(left, parts=best.parts._replace(right=best.parts.right_left))
        return Successes(best.parts.hits_left, best.parts.weights), chosen, left
    p = clean.p
    return Successes(p * (1 - left.p), p), chosen, left


def best_of(attacked: Sequence[Score]) -> Tensor:
    """(n,), which of several attacks leaves the fewest draws right: by the first half of them."""
    correct = torch.stack([each.correct for each in attacked])
    return correct[:, :, : max(1, correct.shape[2] // 2)].double().mean(2).argmin(0)


def pick(scores: list[Score], chosen: Tensor) -> Score:
    """Row by row that of `scores` which `chosen` (n,) says."""
    rows = torch.arange(len(chosen))

    def picked(values: list[Any]) -> Any:
        if any(value is None for value in values):
            return None
        if isinstance(values[0], Parts):
            return Parts(*(picked(list(each)) for each in zip(*values, strict=True)))
        return torch.stack(values)[chosen, rows]

    return Score(*(picked([getattr(score, f.name) for score in scores]) for f in fields(Score)))


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
