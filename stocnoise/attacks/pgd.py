"""Iterated gradient steps within a ball: PGD and its relatives BIM and MIM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from stocnoise.attacks.ball import Ball, per_row
from stocnoise.attacks.base import ASKED, BallAttack
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
        start: radius of the ball that it begins in, in units of ε.
        clip: False leaves of Π only bounds and mask: x' may lie outside the ball, `start`·ε + `steps`·s from x. Fit to
            train on; `evaluate` refuses it.
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
    start: float = field(default=1.0, metadata=ASKED)
    clip: bool = field(default=True, metadata=ASKED)

    can_be_targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_whole("restarts", self.restarts)
        if self.step_size is not None:
            # In a ball of no radius, where a warm-up begins, there is nowhere to go.
            check_number("step_size", self.step_size, above=0 if torch.as_tensor(self.eps).any() else None)
        check_number("momentum", self.momentum)
        check_loss(self.loss)
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts need random_start=True: without it every restart is the same")
        check_number("start", self.start, above=0)
        if self.start != 1 and not self.random_start:
            raise ValueError("start, the radius of the random start, needs random_start=True")

    @staticmethod
    def single_step(eps: float | Tensor = 8 / 255, **settings: Any) -> PGD:
        """N-FGSM: x' = η + ε·d(∇L(f(η), y)), η uniform in the ball of radius 2ε, x' not clipped to the ball of ε.

        For training at the cost of 2 gradients a batch, 1 for x' and 1 for the weights, where PGD with 5 steps costs 6.
        x' may lie up to 3ε from x, so robust accuracy in training is not that of ε. One-step training may collapse
        unseen: measure it by `val_attack=PGD(eps, steps=10)`.

        Args:
            eps: ε, the radius to be robust within.
            settings: of `PGD`, such as `norm`, `eot` or `bounds`; also `start`, the noise in units of ε.

        Source: de Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step Adversarial Training",
        NeurIPS 2022.
        """
        return PGD(**{"eps": eps, "steps": 1, "step_size": _length(1.0, eps), "start": 2.0, "clip": False} | settings)

    @staticmethod
    def fgsm_rs(eps: float | Tensor = 8 / 255, **settings: Any) -> PGD:
        """FGSM with a random start: x' = Π(η + 1.25·ε·d(∇L(f(η), y))), η uniform in the ball of ε.

        For training at the cost of 2 gradients a batch, as `single_step`, and collapses at smaller ε than that.

        Args:
            eps: ε, the radius to be robust within.
            settings: of `PGD`, such as `norm`, `eot` or `bounds`.

        Source: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial training", ICLR 2020.
        """
        return PGD(**{"eps": eps, "steps": 1, "step_size": _length(1.25, eps)} | settings)

    @property
    def leaves_ball(self) -> bool:
        return not self.clip

    def scaled(self, share: float) -> Self:
        if self.step_size is None or _by_feature(self.eps):  # which is in units of each feature's ε
            return super().scaled(share)
        return dataclasses.replace(self, eps=self.eps * share, step_size=self.step_size * share)

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

    def shortened(self, share: float) -> PGD:
        """This attack with steps `share` times as long, in the same ball."""
        radius = 1.0 if isinstance(self.eps, Tensor) and self.eps.dim() else float(self.eps)
        length = 2.5 * radius / self.steps if self.step_size is None else self.step_size
        return dataclasses.replace(self, step_size=share * length)

    def _ascend(self, target: Target, ball: Ball, y: Tensor, generator: torch.Generator | None) -> Tensor:
        loss = loss_for(target.task, self.loss)
        step_size = 2.5 * ball.radius / self.steps if self.step_size is None else self.step_size
        point = ball.random(generator, self.start) if self.random_start else ball.x
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
            ahead = torch.add(point, ball.direction(gradient), alpha=step_size)
            point = ball.project(ahead) if self.clip else ball.clip(ahead)
        return result.index_copy(0, rows, point) if self.stop_early else point


def _by_feature(eps: float | Tensor) -> bool:
    return isinstance(eps, Tensor) and eps.dim() > 0


def _length(share: float, eps: float | Tensor) -> float:
    """`share`·ε as a step size is given; of what is no ε, which PGD refuses by its name, whatever."""
    return share * float(eps) if isinstance(eps, Real) or (isinstance(eps, Tensor) and not eps.dim()) else share


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
