"""One attack on one batch, at each ε, scored on fresh draws."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack, BallAttack, Boundary, overshoot
from stocnoise.attacks.ball import Norm, limits, norms
from stocnoise.attacks.registry import named_attack
from stocnoise.batches import Batch
from stocnoise.evaluation.inputs import Counted
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.subject import Subject

Key = tuple[str, float | None]

Budgets = Mapping[float, float | Tensor]
"""ε as the report shows it, to ε as an attack takes it: a budget for each feature goes by its largest."""

# How far past a boundary found on one draw an image is scored on others, in units of its distance.
_OVERSHOOT = 1.5


@dataclass(frozen=True)
class Job:
    """An attack under the name it has in the report."""

    label: str
    attack: Attack

    @property
    def overshoot(self) -> float:
        """How far past the point that a minimum-norm attack found, in units of its distance, an image is scored."""
        # The raw figure is the published one: what the attack found, as it found it.
        return 1.0 if _is_raw(self.attack) else _OVERSHOOT

    def keys(self, eps: Iterable[float]) -> list[Key]:
        """The entries that this job makes."""
        return [(self.label, e) for e in ([] if isinstance(self.attack, BallAttack) else [None]) + list(eps)]


def named_jobs(
    wanted: Sequence[str | Attack], *, norm: Norm, steps: int, eot: int, source: nn.Module | None, stochastic: bool
) -> list[Job]:
    """The attacks under their names in the report; the boundary attack also on raw noise where there is noise."""
    jobs: list[Job] = []
    for attack in wanted:
        if isinstance(attack, str):
            jobs.append(Job(attack, named_attack(attack, norm=norm, steps=steps, eot=eot, source=source)))
            if attack == "boundary" and stochastic and "boundary-raw" not in wanted:
                jobs.append(Job("boundary-raw", Boundary(noise="raw")))
        elif isinstance(attack, Attack):
            if isinstance(attack, BallAttack) and attack.norm != norm:
                raise ValueError(f"{attack} has another norm than this evaluation, {norm!r}")
            label = type(attack).__name__.lower() + ("-raw" if _is_raw(attack) else "")
            taken = sum(job.label.split(" #")[0] == label for job in jobs)
            jobs.append(Job(f"{label} #{taken + 1}" if taken else label, attack))
        else:
            raise ValueError(f"an attack must be a name or an attack object, not {attack!r}")
    if len({job.label for job in jobs}) < len(jobs):
        raise ValueError(f"an attack was asked for twice: {', '.join(job.label for job in jobs)}")
    return jobs


def _is_raw(attack: Attack) -> bool:
    return isinstance(attack, Boundary) and attack.noise == "raw"


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

    def add(self, other: Tally) -> None:
        self.scores += other.scores
        self.l2 += other.l2
        self.excess = max(self.excess, other.excess)
        self.gradients += other.gradients
        self.queries += other.queries
        self.seconds += other.seconds


def seed_all(*parts: object) -> None:
    """Seed PyTorch by what is about to be done, so that no result depends on what was done before it."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:6], "big"))


@dataclass(frozen=True)
class Trial:
    """One batch, to be attacked and scored: the subject in eval mode, its model counting what it is asked.

    `clean` is what `Subject.answers` found without an attack.
    """

    subject: Subject
    model: Counted
    batch: Batch
    clean: Tensor | None
    norm: Norm
    draws: int

    def run(self, job: Job, eps: Budgets, seed: object) -> dict[Key, Tally]:
        """An attack in a ball runs at each ε. A minimum-norm attack runs once; its images are scored as it made them,
        pushed on by `job.overshoot`, and cut to each ε.
        """
        x, wanted = self.batch.x, None
        if job.attack.targeted:
            seed_all(seed, job.label, "targets")
            wanted = self.subject.wanted(self.batch)
        if isinstance(job.attack, BallAttack):
            results: dict[Key, Tally] = {}
            for e, budget in eps.items():
                seed_all(seed, job.label, e)
                found, tally = self._timed(dataclasses.replace(job.attack, eps=budget), wanted)
                results[job.label, e] = self._scored(tally, found, budget, wanted)
            return results
        seed_all(seed, job.label)
        found, search = self._timed(job.attack, wanted)
        results = {}
        lengths: list[tuple[float | None, float | Tensor]] = [(None, math.inf), *eps.items()]
        for shown, length in lengths:
            further = overshoot(x, found, job.overshoot, length, self.norm, self.subject.bounds)
            tally = dataclasses.replace(search, scores=[], l2=[])
            results[job.label, shown] = self._scored(tally, further, length, wanted)
        return results

    def _timed(self, attack: Attack, wanted: Tensor | None) -> tuple[Tensor, Tally]:
        gradients, queries = self.model.gradients, self.model.queries
        _wait(self.batch.x)
        start = time.perf_counter()
        found = self.subject.attack(attack, self.batch, wanted)
        _wait(self.batch.x)
        return found, Tally(
            gradients=self.model.gradients - gradients,
            queries=self.model.queries - queries,
            seconds=time.perf_counter() - start,
        )

    def _scored(self, tally: Tally, found: Tensor, eps: float | Tensor, wanted: Tensor | None) -> Tally:
        delta = found.double() - self.batch.x.double()
        low, high = (torch.as_tensor(limit).to(delta) for limit in limits(self.subject.bounds))
        outside = torch.maximum((low - found).amax(), (found - high).amax()).item()
        size = delta.abs() if isinstance(eps, Tensor) else norms(delta, self.norm)
        beyond = (size - torch.as_tensor(eps).to(delta)).amax().item()
        # NaN compares false with everything: let it count as outside.
        tally.excess = max(outside, beyond, 0.0) if outside == outside else float("inf")
        tally.l2.append(norms(delta, "l2").float().cpu())
        tally.scores.append(self.subject.score(self.batch, self.draws, found, clean=self.clean, wanted=wanted))
        return tally


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
