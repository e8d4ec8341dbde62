"""Iterated gradient steps within a ball: PGD and its relatives BIM and MIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stocnoise.attacks.ball import Ball, per_row
from stocnoise.attacks.base import BallAttack
from stocnoise.attacks.losses import check_loss, cross_entropy, loss_for
from stocnoise.attacks.target import Loss, Target
from stocnoise.checks import check_number, check_whole
from stocnoise.tasks import Task


@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient descent: x ← Π(x + s·d(∇ mean_k L(f_k(x), y))), f_k the model with its k-th draw of noise.

    Π projects onto the ε-ball within [0, 1]; d(g) = sign(g) for L∞ and g/‖g‖₂ for L2. With momentum μ > 0 the direction
    is d(m), m ← μ·m + g/‖g‖₁. The last iterate is returned: choosing one by its label would keep lucky draws.

    Args:
        steps: iterations.
        step_size: s; default 2.5·ε/steps, so that any point of the ball can be reached. In units of ε if that is one
            for each feature.
        random_start: begin at a random point of the ball instead of at x.
        momentum: μ.
        restarts: independent runs; per image the one with the highest mean loss over `eot` new draws is returned.
        stop_early: leave an image alone once all `eot` draws of a step misclassify it. With few draws this keeps lucky
            ones; it saves time in training.
        loss: (output, y) → (B,), to be maximised: the task's own, or one of `stocnoise.attacks.losses`. Any y with one
            entry per image may be passed for a loss of the user's, such as clean logits for the divergence of TRADES.
        eps, norm, eot, batch_norm, task, output, bounds, mask, targeted: see `BallAttack`.

    Source: Madry et al., ICLR 2018; EOT: Athalye et al., ICML 2018.

    Example:
        >>> attack = stocnoise.PGD(eps=8 / 255, steps=5, eot=2)
        >>> bool(((attack(student, images, labels) - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """

    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    momentum: float = 0.0
    restarts: int = 1
    stop_early: bool = False
    loss: Loss = cross_entropy

    can_be_targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_whole("restarts", self.restarts)
        if self.step_size is not None:
            check_number("step_size", self.step_size, above=0)
        check_number("momentum", self.momentum)
        check_loss(self.loss)
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts need random_start=True: without it every restart is the same")

    def check_task(self, task: Task) -> None:
        loss_for(task, self.loss, self.targeted)

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        ball = self.ball(x)
        found = self._ascend(target, ball, y, generator)
        if self.restarts == 1:
            return found
        loss_of = loss_for(target.task, self.loss)
        highest = target.losses(found, y, loss_of).mean(0)
        for _ in range(1, self.restarts):
            other = self._ascend(target, ball, y, generator)
            loss = target.losses(other, y, loss_of).mean(0)
            found = torch.where(per_row(loss > highest, x), other, found)
            highest = torch.maximum(loss, highest)
        return found

    def _ascend(self, target: Target, ball: Ball, y: Tensor, generator: torch.Generator | None) -> Tensor:
        loss = loss_for(target.task, self.loss)
        step_size = 2.5 * ball.radius / self.steps if self.step_size is None else self.step_size
        point = ball.random(generator) if self.random_start else ball.x
        velocity = torch.zeros_like(point)
        result = point
        rows = torch.arange(len(point), device=point.device)
        for _ in range(self.steps):
            here = target.ascent(point, y, loss, rows if self.stop_early else None)
            gradient = here.gradient
            if self.stop_early:
                going = here.fooled < 1
                result = result.index_copy(0, rows, point)
                rows, point, y, ball = rows[going], point[going], y[going], ball[going]
                gradient, velocity = gradient[going], velocity[going]
                if len(rows) == 0:
                    return result
            if self.momentum:
                size = gradient.flatten(1).abs().sum(1).clamp_min(1e-12)
                velocity = gradient = self.momentum * velocity + gradient / per_row(size, gradient)
            point = ball.project(torch.add(point, ball.direction(gradient), alpha=step_size))
        return result.index_copy(0, rows, point) if self.stop_early else point


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """Basic iterative method: PGD from x itself. With `steps=1, step_size=eps` it is the fast gradient sign method.

    Source: Kurakin et al., ICLR 2017 workshop.

    Example:
        >>> fgsm = stocnoise.BIM(eps=8 / 255, steps=1, step_size=8 / 255)
        >>> adversarial = fgsm(student, images, labels)
    """

    random_start: bool = False


@dataclass(frozen=True, kw_only=True)
class MIM(PGD):
    """Momentum iterative method: BIM with μ = 1 over L1-normalised gradients. Source: Dong et al., CVPR 2018.

    Example:
        >>> adversarial = stocnoise.MIM(eps=8 / 255, steps=5)(student, images, labels)
    """

    random_start: bool = False
    momentum: float = 1.0
