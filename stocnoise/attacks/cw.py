"""Carlini and Wagner's L2 attack with expectation over the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stocnoise.attacks.ball import Bounds, limits, norms, per_row
from stocnoise.attacks.base import MinimumNormAttack
from stocnoise.attacks.target import Loss, Target
from stocnoise.checks import check_number, check_whole
from stocnoise.tasks import Task


@dataclass(frozen=True, kw_only=True)
class CW(MinimumNormAttack):
    """min ‖δ‖₂² + c · mean_k max(0, κ − m_k(x + δ)), m_k = max_{j≠y} z_j − z_y with the k-th draw of noise.

    δ is searched by Adam in w, x + δ = low + (high − low)·(tanh(w) + 1) / 2 (w itself without bounds), and c by
    bisection, image by image. With `targeted` m_k is negated: the wanted class must lead. Published
    implementations keep a point as soon as one draw misclassifies it, so that nearly every point they keep is a lucky
    one. Here a point counts only if more than half of `eot` draws misclassify it, by κ or more, and it is kept only if
    more than half of `eot` further draws do. (With eot = 1, for deterministic models, the first draw decides.)

    Args:
        steps: Adam steps for each c.
        search_steps: values of c tried: ten times larger as long as nothing is found, then bisection.
        learning_rate: Adam's, in w.
        initial_const: the first c.
        confidence: κ ≥ 0, in units of the logits.
        eot, batch_norm, task, output, bounds, mask, targeted: see `Attack`. The task needs a margin.

    Source: Carlini & Wagner, S&P 2017, section VI.

    Example:
        >>> adversarial = stocnoise.CW(steps=5, search_steps=2)(student, images, labels)
    """

    steps: int = 100
    search_steps: int = 6
    learning_rate: float = 0.05
    initial_const: float = 0.1
    confidence: float = 0.0

    can_be_targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_whole("search_steps", self.search_steps)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("initial_const", self.initial_const, above=0)
        check_number("confidence", self.confidence)

    def check_task(self, task: Task) -> None:
        if task.margin is None:
            raise ValueError(f"CW needs a task with a margin, which task={task} has not: use PGD or APGD")

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        space, hinge = _Space(x, self.bounds, self.mask), self._hinge(target.task)
        start = space.coordinates()
        const = x.new_full((len(x),), self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, torch.inf)
        best, smallest = x, torch.full_like(const, torch.inf)
        for _ in range(self.search_steps):
            w = start.clone().requires_grad_()
            adam = torch.optim.Adam([w], self.learning_rate)
            succeeded = torch.zeros_like(const, dtype=torch.bool)
            for _ in range(self.steps):
                point, slope_in_w = space.point(w.detach())
                here = target.ascent(point, y, hinge)
                # The hinge is also zero on a tie at κ = 0, which is no misclassification.
                beaten = ((here.losses >= 0).float().mean(0) > 0.5) & (here.fooled > 0.5)
                distance = norms(point - x, "l2")
                closer = self._confirmed(target, point, y, hinge, beaten & (distance < smallest))
                best = torch.where(per_row(closer, x), point, best)
                smallest = torch.where(closer, distance, smallest)
                succeeded |= beaten
                slope = 2 * (point - x) - per_row(const, x) * here.gradient
                w.grad = slope * slope_in_w
                adam.step()
            high = torch.where(succeeded, const, high)
            low = torch.where(succeeded, low, const)
            const = torch.where(high.isinf(), const * 10, (low + high) / 2)
        return best

    def _hinge(self, task: Task) -> Loss:
        margin, kappa = task.margin, self.confidence
        assert margin is not None
        # A targeted attack negates the loss: the hinge is then of the negated margin.
        if self.targeted:
            return lambda output, y: (margin(output, y) + kappa).clamp_min(0)
        return lambda output, y: (margin(output, y) - kappa).clamp_max(0)

    def _confirmed(self, target: Target, point: Tensor, y: Tensor, hinge: Loss, candidates: Tensor) -> Tensor:
        """The candidates that most of `eot` further draws misclassify too."""
        if self.eot == 1 or not candidates.any():
            return candidates
        rows = candidates.nonzero().squeeze(1)
        hits = target.losses(point[rows], y[rows], hinge, rows) >= 0
        return candidates.index_copy(0, rows, hits.float().mean(0) > 0.5)


class _Space:
    """Coordinates w in which every point lies within bounds, and nothing outside the mask moves."""

    def __init__(self, x: Tensor, bounds: Bounds, mask: Tensor | None) -> None:
        low, high = (torch.as_tensor(limit).to(x) for limit in limits(bounds))
        self.bounded = bool((low.isfinite() & high.isfinite()).all())
        if not self.bounded and bool((low.isfinite() | high.isfinite()).any()):
            raise ValueError("CW needs bounds on both sides or none: bounds=(low, high) or bounds=None")
        self.x, self.low, self.width = x, low, high - low
        self.mask = None if mask is None else mask.to(x)

    def coordinates(self) -> Tensor:
        if not self.bounded:
            return self.x.clone()
        return torch.atanh((2 * ((self.x - self.low) / self.width) - 1) * 0.999999)

    def point(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The point at w, and its derivative there, element by element."""
        if self.bounded:
            tanh = w.tanh()
            point, slope = self.low + self.width * ((tanh + 1) / 2), self.width * ((1 - tanh * tanh) / 2)
        else:
            point, slope = w, torch.ones_like(w)
        if self.mask is None:
            return point, slope
        return torch.where(self.mask.bool(), point, self.x), slope * self.mask
