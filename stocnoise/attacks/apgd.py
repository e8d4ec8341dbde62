"""Auto-PGD with expectation over the noise: no step size to choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stocnoise.attacks.ball import Ball, per_row
from stocnoise.attacks.base import BallAttack
from stocnoise.attacks.losses import check_loss, cross_entropy, loss_for
from stocnoise.attacks.target import Ascent, Loss, Target
from stocnoise.checks import check_share, check_whole
from stocnoise.tasks import Task


@dataclass(frozen=True, kw_only=True)
class APGD(BallAttack):
    """APGD: steps with momentum whose size, 2ε at first, is halved for an image when its loss stops rising.

    z = Π(x_k + η·d(g)),  x_{k+1} = Π(x_k + 0.75·(z − x_k) + 0.25·(x_k − x_{k−1})). At checkpoints η is halved, and the
    search goes back to the best point, if the loss rose in less than a share ρ of the steps since the last checkpoint,
    or if neither η nor the best loss changed.

    The best point is the one with the highest mean loss over `eot` draws, among those that most of them misclassify if
    there are any. Published implementations average the gradient alone and judge a point by one draw, which keeps lucky
    ones.

    Args:
        steps: gradients per restart.
        restarts: independent random starts; the best point of all wins.
        loss: to be maximised: the task's own, or of `stocnoise.attacks.losses` `dlr`, `margin`, `mean_probability`.
        rho: ρ.
        eps, norm, eot, batch_norm, task, output, bounds, mask, targeted: see `BallAttack`.

    Source: Croce & Hein, ICML 2020, algorithm 1.

    Example:
        >>> from stocnoise.attacks.losses import dlr
        >>> adversarial = stocnoise.APGD(steps=10, eot=2, loss=dlr)(student, images, labels)
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss = cross_entropy
    rho: float = 0.75

    can_be_targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_whole("restarts", self.restarts)
        check_loss(self.loss)
        check_share("rho", self.rho, inner=True)

    def check_task(self, task: Task) -> None:
        loss_for(task, self.loss, self.targeted)

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        ball = self.ball(x)
        best = self._climb(target, ball, y, generator)
        for _ in range(1, self.restarts):
            best = best.or_better(self._climb(target, ball, y, generator))
        return best.point

    def _climb(self, target: Target, ball: Ball, y: Tensor, generator: torch.Generator | None) -> _Visit:
        """The best point of one run."""
        loss = loss_for(target.task, self.loss)
        point = before = ball.random(generator)
        here = best = _Visit.of(point, target.ascent(point, y, loss))
        size = torch.full_like(here.loss, 2 * ball.radius)
        rises, halved = torch.zeros_like(size), torch.ones_like(size, dtype=torch.bool)
        highest = highest_before = here.loss
        checkpoints, last_checkpoint = _checkpoints(self.steps), 0
        for step in range(1, self.steps):
            ahead = ball.project(here.point + per_row(size, point) * ball.direction(here.gradient))
            if step > 1:
                ahead = ball.project(here.point + 0.75 * (ahead - here.point) + 0.25 * (here.point - before))
            before, loss_before = here.point, here.loss
            here = _Visit.of(ahead, target.ascent(ahead, y, loss))
            rises += here.loss > loss_before
            best = best.or_better(here)
            highest = torch.maximum(highest, here.loss)
            if step in checkpoints:
                stuck = (rises <= self.rho * (step - last_checkpoint)) | (~halved & (highest <= highest_before))
                size = torch.where(stuck, size / 2, size)
                here = here.where(~stuck, best)
                halved, highest_before, last_checkpoint = stuck, highest, step
                rises = torch.zeros_like(rises)
        return best


class _Visit(NamedTuple):
    """A point, and what `eot` draws said there."""

    point: Tensor
    gradient: Tensor
    loss: Tensor
    beaten: Tensor

    @classmethod
    def of(cls, point: Tensor, ascent: Ascent) -> _Visit:
        return cls(point, ascent.gradient, ascent.loss, ascent.fooled > 0.5)

    def where(self, rows: Tensor, other: _Visit) -> _Visit:
        """This visit's rows where `rows`, else the other's."""
        return _Visit(*(torch.where(per_row(rows, a), a, b) for a, b in zip(self, other, strict=True)))

    def or_better(self, other: _Visit) -> _Visit:
        """For each row the visit that is beaten, or, if both or neither are, the one of higher loss."""
        better = (other.beaten & ~self.beaten) | ((other.beaten == self.beaten) & (other.loss > self.loss))
        return self.where(~better, other)


def _checkpoints(steps: int) -> set[int]:
    """⌈p_j·steps⌉ with p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)."""
    marks, before, now = set(), 0.0, 0.22
    while now <= 1:
        marks.add(math.ceil(round(now * steps, 6)))
        before, now = now, now + max(now - before - 0.03, 0.06)
    return marks
