"""At equal clean accuracy and equal budget, is the student ahead of adversarial training? With intervals.

Adversarial training at several ε, and from scratch, and the teacher that it began from give a front of robust accuracy
against clean accuracy: the most robust of these models, or random mixture of two, with at least a given clean accuracy.
As a maximum of noisy figures it favours AT a little. A student's gap is its robust accuracy minus the front's at the
student's clean accuracy. Robust accuracy is the worst case of the measurement "strongest", image by image. The 95 %
interval is a bootstrap over seeds and images, the images paired.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.paper import recipes
from examples.paper.recipes import Recipe
from examples.paper.results import Results
from examples.paper.scale import Scale

_RESAMPLES = 4000

NO_NOISE = "no noise"
MIXED = "mixed with the teacher"
PREDICTORS = {
    "one draw": ("strongest", "draws"),
    "vote": ("strongest", "vote"),
    "averaged": ("averaged", "draws"),
    "noise off": ("noise-off", "draws"),
    MIXED: ("mixed", "draws"),
}
"""How a model answers: the measurement that holds it, and what of it counts as right."""

HARDER = {"strongest": "harder", "averaged": "harder-averaged"}
"""What counts instead where it was measured, by measurement."""


@dataclass(frozen=True)
class Answers:
    """The share of right answers by seed and image, (seeds, images), on clean and on attacked images."""

    clean: Tensor
    attacked: Tensor

    def means(self, images: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Clean and robust accuracy, (resamples,), each image and seed as often as the resample has it."""

        def mean(part: Tensor) -> Tensor:
            return ((images @ part.T) * seeds).sum(1) / (images.sum(1) * seeds.sum(1))

        return mean(self.clean), mean(self.attacked)


@dataclass(frozen=True)
class Row:
    """A model on the plane of clean and robust accuracy, in fractions; the intervals are (low, high)."""

    title: str
    predictor: str
    seeds: int
    clean: float
    robust: float
    robust_interval: tuple[float, float]
    passes: float
    """There and back, of each training image: what the training costs."""
    seconds: float
    """Of training, the mean over seeds."""
    inference: int
    """Passes that an answer costs."""
    gap: float | None = None
    """Robust accuracy above AT's front at equal clean accuracy; None for AT itself."""
    gap_interval: tuple[float, float] | None = None
    beyond: bool = False
    """Whether nothing on the front has as much clean accuracy; then the gap is from the best of those with the most."""


def rows(results: Results, scale: Scale) -> tuple[list[Row], list[Row]]:
    """What AT's front is made of, and everything that is held against it; both empty if AT was not measured."""
    at = _answers(results, "at", "one draw")
    if at is None:
        return [], []
    line = {"at": at}
    for name in (*recipes.at_line(scale), "teacher"):
        answers = _answers(results, name, "one draw")
        if answers is not None and answers.clean.shape == at.clean.shape:  # every seed, on the same images
            line[name] = answers
    generator = torch.Generator().manual_seed(0)
    count, size = at.clean.shape
    images = _resampled(size, generator)
    seeds = _resampled(count, generator)
    known = recipes.compared(scale)
    # The first resample is the data itself.
    points = {name: answers.means(images, seeds) for name, answers in line.items()}
    clean, robust = (torch.stack([point[i] for point in points.values()], 1) for i in (0, 1))
    cost = _Cost(results, scale)
    ats = [_row(known[name], NO_NOISE, count, *points[name], cost) for name in line]
    held = []
    for name, predictor in _wanted(scale):
        answers = _answers(results, name, "one draw" if predictor == NO_NOISE else predictor)
        if answers is not None and answers.clean.shape == at.clean.shape:
            c, r = answers.means(images, seeds)
            beyond = bool(c[0] > clean[0].max())
            held.append(_row(known[name], predictor, count, c, r, cost, r - front(clean, robust, c), beyond))
    return ats, held


def _wanted(scale: Scale) -> list[tuple[str, str]]:
    """Recipes and predictors that are held against the front."""
    helped = recipes.helped(scale)
    noisy = [name for name, recipe in helped.items() if recipe.layer is not None]
    plain = [name for name in helped if name not in noisy]
    return [
        ("trades", NO_NOISE),
        *((name, NO_NOISE) for name in plain),
        ("at", MIXED),
        *((name, p) for name in ("l2p", "anis", *recipes.students(scale), *noisy) for p in PREDICTORS),
    ]


@dataclass(frozen=True)
class _Cost:
    """What a model costs to train, and to ask."""

    results: Results
    scale: Scale

    def of(self, recipe: Recipe, predictor: str) -> tuple[float, float, int]:
        histories = [line["history"] for line in self.results.of(recipe.name, "training")]
        seconds = [sum(epoch["seconds"] for epoch in history) for history in histories]
        attacks = self.scale.attacks
        asked = {"vote": attacks.draws, "averaged": attacks.averaged_samples, MIXED: 2}.get(predictor, 1)
        return recipes.passes(self.scale, recipe), sum(seconds) / len(seconds) if seconds else float("nan"), asked


def stages(results: Results, harder: bool = False) -> list[tuple[str, str, list[float]]]:
    """Title, predictor, and the robust accuracy that each stage of the attack left, means over seeds."""
    predictors = {kind: name for name, (kind, counted) in PREDICTORS.items() if counted == "draws"}
    if harder:
        predictors = {HARDER[kind]: name for kind, name in predictors.items() if kind in HARDER}
    measured = {(line["recipe"], line["kind"]): line["title"] for line in results.lines if line["kind"] in predictors}
    rows = []
    for (recipe, kind), title in measured.items():
        lines = results.of(recipe, kind)
        plain = kind == "strongest" and not lines[0]["settings"]["stochastic"]
        left = [[stage["robust_accuracy"] for stage in line["stages"]] for line in lines]
        means = [sum(stage) / len(lines) for stage in zip(*left, strict=True)]
        rows.append((title, NO_NOISE if plain else predictors[kind], means))
    return rows


def taken(results: Results) -> dict[tuple[str, str], float]:
    """By title and predictor, what the last stage of the hardest attack took, mean over seeds."""
    rows = [*stages(results), *stages(results, harder=True)]
    return {(title, predictor): left[-2] - left[-1] for title, predictor, left in rows if len(left) > 1}


def front(xs: Tensor, ys: Tensor, at: Tensor) -> Tensor:
    """Row by row, the highest y with an x of at least `at` (R,), of the points (xs, ys), (R, K), and mixtures of two.

    Beyond the largest x it is what it is there.
    """
    at = torch.minimum(at, xs.amax(1))
    none = torch.full_like(at, -torch.inf)
    best = torch.where(xs >= at[:, None], ys, none[:, None]).amax(1)
    for i, j in itertools.permutations(range(xs.shape[1]), 2):
        share = (at - xs[:, i]) / (xs[:, j] - xs[:, i])
        mixture = ys[:, i] + share * (ys[:, j] - ys[:, i])
        best = torch.maximum(best, torch.where((xs[:, i] < at) & (at <= xs[:, j]), mixture, none))
    return best


def _resampled(size: int, generator: torch.Generator) -> Tensor:
    """How often each of `size` things is drawn in each resample, the first of which is the sample itself."""
    drawn = torch.randint(size, (_RESAMPLES, size), generator=generator)
    counts = torch.zeros(_RESAMPLES, size, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), counts])


def _answers(results: Results, recipe: str, predictor: str) -> Answers | None:
    kind, counted = PREDICTORS[predictor]
    found = [line["per_image"] for line in _hardest(results, recipe, kind)]
    if not found:
        return None
    clean, attacked = (torch.stack([_right(each[part], counted) for each in found]) for part in ("clean", "attacked"))
    if predictor == "averaged":
        # Made on one draw, in more steps: against some images the better attack on the mean of many as well.
        others = [line["per_image"]["attacked"]["averaged"] for line in _hardest(results, recipe, "strongest")]
        attacked = torch.minimum(attacked, torch.tensor(others, dtype=attacked.dtype))
    return Answers(clean, attacked)


def _hardest(results: Results, recipe: str, kind: str) -> list[dict[str, Any]]:
    """By seed, the measurement of the harder attack where it was made for every seed."""
    plain, harder = (results.of(recipe, each) for each in (kind, HARDER.get(kind, kind)))
    return harder if len(harder) >= len(plain) else plain


def _right(answers: dict[str, Any], counted: str) -> Tensor:
    share = torch.tensor(answers["right"], dtype=torch.float64) / answers["draws"]
    return (share > 0.5).double() if counted == "vote" else share


def _row(
    recipe: Recipe,
    predictor: str,
    seeds: int,
    clean: Tensor,
    robust: Tensor,
    cost: _Cost,
    gap: Tensor | None = None,
    beyond: bool = False,
) -> Row:
    return Row(
        recipe.title,
        predictor,
        seeds,
        clean[0].item(),
        robust[0].item(),
        _interval(robust),
        *cost.of(recipe, predictor),
        gap=None if gap is None else gap[0].item(),
        gap_interval=None if gap is None else _interval(gap),
        beyond=beyond,
    )


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def verdict(row: Row, took: float = 0.0) -> str:
    """Where a student stands against AT's front, after an attack whose last stage still took so much of its accuracy:
    no lead is one that such a stage would eat."""
    assert row.gap is not None and row.gap_interval is not None
    low, high = row.gap_interval
    place = "ahead of" if low > took else "behind" if high < 0 else "level with"
    eaten = f"; the attack's last stage still took {100 * took:.1f}" if 0 < low <= took else ""
    return f"{place} AT ({100 * row.gap:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]{eaten})"
