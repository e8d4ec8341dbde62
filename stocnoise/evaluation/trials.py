"""One batch under attack: what is measured there, and how tallies of batches add up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from stocnoise.attacks.ball import Norm, clipped, limits, norms
from stocnoise.batches import Batch
from stocnoise.evaluation.examples import Shown, shown
from stocnoise.evaluation.inputs import Counted
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.stages import StageTally
from stocnoise.evaluation.subject import Subject

T = TypeVar("T")

Key = tuple[str, float | None] | tuple[str, float | None, int]
"""(attack, ε), or (attack, ε, queries) of an attack at a budget of them."""

Budgets = Mapping[float, float | Tensor]
"""ε as the report shows it, to ε as an attack takes it: a budget for each feature goes by its largest."""


@dataclass
class Tally:
    """What one attack at one ε did to one batch, or to several put together."""

    scores: list[Score] = field(default_factory=list)
    l2: list[Tensor] = field(default_factory=list)
    excess: float = 0.0
    """By how much an image left the ball or the bounds at most."""
    gradients: int = 0
    queries: int = 0
    seconds: float = 0.0
    stages: list[StageTally] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know about how it went."""
    bounds: list[Score] = field(default_factory=list)
    """Of the model whose robust accuracy is a lower bound, where the evaluated one names it; see `Predictor`."""
    answers: int | None = None
    """Of an attack that counts its queries: answers to a question."""
    chosen: bool = False
    """Whether one half of the draws chose it among several, and the other half alone may count."""

    def add(self, other: Tally) -> None:
        self.scores += other.scores
        self.l2 += other.l2
        self.excess = max(self.excess, other.excess)
        self.gradients += other.gradients
        self.queries += other.queries
        self.seconds += other.seconds
        pairs = zip(self.stages, other.stages, strict=True)
        self.stages = [mine.plus(its) for mine, its in pairs] if self.stages else other.stages
        self.shown += other.shown
        self.notes += other.notes
        self.bounds += other.bounds


def seed_all(*parts: object) -> None:
    """Seed PyTorch by what is about to be done, so that no result depends on what was done before it."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:6], "big"))


@dataclass(frozen=True)
class Trial:
    """One batch, to be attacked and scored: the subject in eval mode, its model counting what it is asked.

    `clean` is what `Subject.answers` found without an attack, `shown` the rows to look at afterwards.
    """

    subject: Subject
    model: Counted
    batch: Batch
    clean: Tensor | None
    norm: Norm
    draws: int
    shown: Tensor

    def timed(self, work: Callable[[], T]) -> tuple[T, Tally]:
        """What `work` makes of the batch, and what it cost."""
        gradients, queries = self.model.gradients, self.model.queries
        _wait(self.batch.x)
        start = time.perf_counter()
        found = work()
        _wait(self.batch.x)
        return found, Tally(
            gradients=self.model.gradients - gradients,
            queries=self.model.queries - queries,
            seconds=time.perf_counter() - start,
        )

    def scored(self, tally: Tally, found: Tensor, eps: float | Tensor, wanted: Tensor | None = None) -> Tally:
        """`tally` with what `found` does on fresh draws."""
        score = self.subject.score(self.batch, self.draws, found, clean=self.clean, wanted=wanted)
        return self.measured(tally, found, eps, score)

    def measured(self, tally: Tally, found: Tensor, eps: float | Tensor, score: Score) -> Tally:
        """`tally` with the score of `found` and how far it went."""
        delta = found.double() - self.batch.x.double()
        low, high = (torch.as_tensor(limit).to(delta) for limit in limits(self.subject.bounds))
        outside = torch.maximum((low - found).amax(), (found - high).amax()).item()
        size = delta.abs() if isinstance(eps, Tensor) else norms(delta, self.norm)
        beyond = (size - torch.as_tensor(eps).to(delta)).amax().item()
        # NaN compares false with everything: let it count as outside.
        tally.excess = max(outside, beyond, 0.0) if outside == outside else float("inf")
        tally.l2.append(norms(delta, "l2").float().cpu())
        tally.scores.append(score)
        if len(self.shown):
            inputs = clipped(found.nan_to_num(0.0), self.subject.bounds)
            tally.shown.append(shown(self.subject, self.batch, self.shown, self.draws, inputs))
        return tally


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
