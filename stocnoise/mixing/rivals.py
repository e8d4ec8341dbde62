"""Every blend of two models on the same images: one pass of the halves judges all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from stocnoise.attacks.ball import clipped
from stocnoise.batches import Batch
from stocnoise.evaluation.cascade import Cascade
from stocnoise.evaluation.rates import Rate, accuracy
from stocnoise.evaluation.scoring import Score, judged
from stocnoise.evaluation.subject import Subject
from stocnoise.mixture import Blend, Mixture

Rival = Blend | Literal["student", "teacher"]
"""A mixture of the two halves, or one of them alone."""


class Rivals:
    """What all images found so far do to each rival: for each image the worst, chosen by one half of the draws.

    Args:
        mixture: whose halves are asked, in the mode they are judged in.
        subject: what is asked of it.
        batches: the images, each row known by its number over all of them.
        blends: the rivals beside the halves alone.
        draws: passes of each half over each image.
    """

    def __init__(
        self, mixture: Mixture, subject: Subject, batches: list[Batch], blends: Iterable[Blend], draws: int
    ) -> None:
        self.mixture, self.subject, self.batches, self.draws = mixture, subject, batches, draws
        self.all: list[Rival] = [*blends, "student", "teacher"]
        clean = [self._scores(batch, batch.x) for batch in batches]
        self.clean = {rival: Score.cat([scores[rival] for scores in clean]) for rival in self.all}
        self._worst = {rival: Cascade(score, [score]) for rival, score in self.clean.items()}

    def add(self, number: int, rows: Tensor, x: Tensor) -> None:
        """Hold every rival against x, made of those rows of the batch of that number."""
        before = sum(len(batch.x) for batch in self.batches[:number])
        for rival, score in self._scores(self.batches[number].at(rows.to(x.device)), x).items():
            self._worst[rival].add(before + rows, score)

    def standing(self, rival: Rival) -> list[Tensor]:
        """The rows of each batch that the rival still gets right."""
        left = torch.zeros(sum(len(batch.x) for batch in self.batches), dtype=torch.bool)
        left[self._worst[rival].left] = True
        return [part.nonzero().flatten() for part in left.split([len(batch.x) for batch in self.batches])]

    def accuracy(self, rival: Rival) -> Rate:
        """Without an attack."""
        return accuracy(self.clean[rival])

    def robust(self, rival: Rival) -> Rate:
        """On the worst image found for each."""
        return self._worst[rival].rates()[1]

    @torch.no_grad()
    def _scores(self, batch: Batch, x: Tensor) -> dict[Rival, Score]:
        subject = self.subject
        given = batch._replace(x=clipped(x.nan_to_num(0.0), subject.bounds))
        student, teacher = (
            subject.of(half).outputs(given, self.draws).flatten(0, 1)
            for half in (self.mixture.student, self.mixture.teacher)
        )
        rows, asked = torch.arange(len(x), device=x.device), subject.asked(given)

        def output(rival: Rival) -> Tensor:
            if isinstance(rival, Blend):
                return rival.mixed(student, teacher)
            return student if rival == "student" else teacher

        return {rival: judged(output(rival).unflatten(0, (self.draws, len(x))), asked, rows) for rival in self.all}
