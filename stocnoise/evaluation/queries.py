"""Attackers who may only ask: at budgets of counted queries, once as they are and once averaging answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stocnoise.attacks import Attack, HopSkipJump, RandomNoise, Transfer
from stocnoise.attacks.ball import Norm
from stocnoise.checks import check_whole
from stocnoise.evaluation.cascade import choosing
from stocnoise.evaluation.jobs import Job, Wish, named_jobs
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import Budgets, Key, Tally, Trial

ANSWERS = (1, 4, 16, 64)
"""Answers to a question that the adaptive attacker chooses from, at equal total."""

Tried = tuple[str, float | None, int, int]
"""(attack, ε, queries, answers to a question)."""


@dataclass(frozen=True)
class QueryJob:
    """An attack at each budget of queries, with each number of answers to a question that fits into it.

    Against a model without noise one answer is all there is. Otherwise the report has two entries: `NAME-raw`, of one
    answer a question, and `NAME`, of as many as serve the attacker best (see `settled`).
    """

    label: str
    attack: Attack
    budgets: tuple[int, ...]
    stochastic: bool

    @property
    def settings(self) -> str:
        budgets = ", ".join(map(str, self.budgets))
        answers = ", ".join(map(str, ANSWERS if self.stochastic else ANSWERS[:1]))
        return f"{self.attack.asking(self.budgets[-1], 1)} at {budgets} queries, answers to a question {answers}"

    def keys(self, eps: Iterable[float]) -> list[Key]:
        """The entries that this job makes."""
        names = [self.label, f"{self.label}-raw"] if self.stochastic else [self.label]
        lengths = [key[1] for key in Job(self.label, self.attack).keys(eps)]
        return [(name, length, queries) for name in names for length in lengths for queries in self.budgets]

    def told(self, subject: Subject, smallest: float | Tensor) -> QueryJob:
        """The job with what its attack leaves unsaid about the subject."""
        return dataclasses.replace(self, attack=subject.told(self.attack, eps=smallest))

    def run(self, trial: Trial, eps: Budgets, seed: object) -> dict[Tried, Tally]:
        found: dict[Tried, Tally] = {}
        for queries in self.budgets:
            for answers in self._answers(queries):
                job = Job(self.label, self.attack.asking(queries, answers))
                for key, tally in job.run(trial, eps, f"{seed}/{queries}/{answers}").items():
                    found[self.label, key[1], queries, answers] = tally
        return found

    def _answers(self, queries: int) -> list[int]:
        return [count for count in ANSWERS if count <= queries] if self.stochastic else [1]


def query_jobs(
    wanted: Sequence[Wish],
    budgets: tuple[int, ...],
    *,
    norm: Norm,
    source: nn.Module | None,
    stochastic: bool,
    **effort: Any,
) -> list[Job | QueryJob]:
    """The attacks that were asked for, at budgets of queries; those that ask nothing as they are.

    Raises:
        ValueError: an attack that does not count its queries.
    """
    jobs: list[Job | QueryJob] = []
    # The raw figure stands beside each, asked for or not.
    plain = dict.fromkeys("boundary" if attack == "boundary-raw" else attack for attack in wanted)
    for job in named_jobs(list(plain), norm=norm, source=source, stochastic=False, **effort):
        if not isinstance(job, Job):
            raise ValueError(f"{job.label} does not count its queries: leave it out, or queries=")
        if isinstance(job.attack, RandomNoise | Transfer):
            jobs.append(job)
            continue
        attack = job.attack
        if job.label == "hopskipjump" and "hopskipjump" in wanted and isinstance(attack, HopSkipJump):
            attack = dataclasses.replace(attack, norm=norm)
        attack.asking(budgets[-1], 1)  # says what cannot count
        label = job.label.removesuffix("-raw")
        if any(other.label == label for other in jobs):
            raise ValueError(f"an attack was asked for twice: {label}")
        jobs.append(QueryJob(label, attack, budgets, stochastic))
    return jobs


def check_queries(queries: int | Sequence[int] | None) -> tuple[int, ...]:
    """Budgets in rising order, each once; none for None.

    Raises:
        ValueError: one is no whole number of at least 1, or there is none.
    """
    if queries is None:
        return ()
    given: list[Any] = list(queries) if hasattr(queries, "__iter__") and not isinstance(queries, type) else [queries]
    if not given:
        raise ValueError("queries must be a whole number of at least 1, or several, not an empty list")
    for each in given:
        check_whole("queries", each)
    return tuple(sorted(set(given)))


def settled(tallies: Mapping[Key | Tried, Tally]) -> dict[Key, Tally]:
    """For each attack, ε and budget the number of answers to a question that leaves the fewest inputs answered rightly.

    One number for all images: an attacker who tried each on an image would pay for each. One half of the draws that
    score the images chooses it, and the other half alone is counted.
    """
    found: dict[Key, Tally] = {}
    rivals: dict[tuple[str, float | None, int], dict[int, Tally]] = {}
    for key, tally in tallies.items():
        if len(key) == 4:
            rivals.setdefault(key[:3], {})[key[3]] = tally
        else:
            found[key] = tally
    for (name, eps, queries), tried in rivals.items():
        raw = dataclasses.replace(tried[1], answers=1)
        if len(tried) == 1 and all(score.correct.shape[1] == 1 for score in raw.scores):
            found[name, eps, queries] = raw  # a model without noise
            continue
        found[f"{name}-raw", eps, queries] = raw
        best = min(tried, key=lambda answers: sum(choosing(score).sum().item() for score in tried[answers].scores))
        found[name, eps, queries] = dataclasses.replace(tried[best], answers=best, chosen=True)
    return found
