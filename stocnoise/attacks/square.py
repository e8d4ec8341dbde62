"""Square Attack: random search by scores alone, at a counted number of queries."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stocnoise.attacks.base import BallAttack
from stocnoise.attacks.losses import loss_for, margin
from stocnoise.attacks.target import Loss, OfMean, Target
from stocnoise.checks import check_number, check_whole
from stocnoise.tasks import Task

# Up to which of 10,000 questions the squares stay as large as they are, before their area is halved.
_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square(BallAttack):
    """Square Attack in L∞: a square of the image is set to x ± ε, and kept if the answer gets worse.

    It begins with vertical stripes of x ± ε. Squares lie anywhere, with one random sign for each channel, and shrink as
    the budget is spent. Worse is a higher margin of the wrong classes, or a higher loss where the task has no margin.
    Each image has squares of its own.

    A question is answered by the mean over `eot` draws of the noise and costs as many queries. The search goes on as
    long as it can pay for another question, past the decision boundary too: of a stochastic model one wrong answer is
    no success.

    Args:
        budget: queries for an image, each an answer of one draw; at least `eot`.
        share: of the image that the first squares cover.
        eps, eot, batch_norm, task, output, bounds, mask: see `BallAttack`; images (B, C, H, W).

    Source: Andriushchenko et al., ECCV 2020, algorithms 1 and 2, with their schedule of sizes.

    Example:
        >>> adversarial = stocnoise.Square(eps=8 / 255, budget=20)(student, images, labels)
    """

    budget: int = 5000
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("budget", self.budget, least=self.eot)
        check_number("share", self.share, above=0)
        if self.share > 1:
            raise ValueError(f"share must be at most 1, not {self.share}")
        if self.norm != "inf":
            raise ValueError("Square searches in L∞: with norm='l2' use boundary or hopskipjump")

    def asking(self, queries: int, answers: int) -> Square:
        return dataclasses.replace(self, budget=queries, eot=answers)

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"Square needs images (B, C, H, W), not inputs of shape {tuple(x.shape)}")
        ball, loss = self.ball(x), _loss(target.task)
        n, channels, height, width = x.shape

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, dtype=x.dtype, device=x.device, generator=generator)

        def signs(*shape: int) -> Tensor:
            return torch.where(drawn(*shape) < 0.5, -1.0, 1.0).to(x)

        best = ball.project(x + signs(n, channels, 1, width) * ball.eps)
        worst = target.losses(best, y, loss).mean(0)
        questions = self.budget // self.eot
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        for asked in range(1, questions):
            side = _side(self.share, asked - 1, questions, height, width)
            top = (drawn(n, 1, 1, 1) * (height - side + 1)).floor()
            left = (drawn(n, 1, 1, 1) * (width - side + 1)).floor()
            inside = _within(rows.view(1, 1, -1, 1), top, side) & _within(columns.view(1, 1, 1, -1), left, side)
            point = torch.where(inside, ball.project(x + signs(n, channels, 1, 1) * ball.eps), best)
            found = target.losses(point, y, loss).mean(0)
            better = found > worst
            best = torch.where(better.view(-1, 1, 1, 1), point, best)
            worst = torch.where(better, found, worst)
        return best


def _loss(task: Task) -> Loss | OfMean:
    return task.loss if task.margin is None else loss_for(task, margin)


def _within(places: Tensor, first: Tensor, side: int) -> Tensor:
    return (places >= first) & (places < first + side)


def _side(share: float, asked: int, questions: int, height: int, width: int) -> int:
    """Of the squares after so many of all questions."""
    halvings = sum(asked * 10_000 / questions > end for end in _SCHEDULE)
    side = round(math.sqrt(share / 2**halvings * height * width))
    return min(max(side, 1), height, width)
