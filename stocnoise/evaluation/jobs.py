"""One attack under the name it has in the report, run at each ε on one batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stocnoise.attacks import Attack, BallAttack, Boundary, overshoot
from stocnoise.attacks.ball import Norm
from stocnoise.attacks.registry import NAMES, named_attack
from stocnoise.controls import stochastic_layers
from stocnoise.evaluation.inputs import uncounted
from stocnoise.evaluation.strongest import NAMED, Against, Strongest
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import Budgets, Key, Tally, Trial, seed_all
from stocnoise.predictors import margin_bound, surrogates

Wish = str | Attack | Strongest
"""An attack as it is asked for."""

# How far past a boundary found on one draw an image is scored on others, in units of its distance.
_OVERSHOOT = 1.5


@dataclass(frozen=True)
class Job:
    """An attack in a ball runs at each ε. A minimum-norm attack runs once; its images are scored as it made them,
    pushed on by `overshoot`, and cut to each ε.
    """

    label: str
    attack: Attack

    @property
    def overshoot(self) -> float:
        """How far past the point that a minimum-norm attack found, in units of its distance, an image is scored."""
        # The raw figure is the published one: what the attack found, as it found it.
        attack = self.attack
        return 1.0 if isinstance(attack, Boundary) and attack.noise == "raw" and not attack.budget else _OVERSHOOT

    @property
    def settings(self) -> str:
        return str(self.attack)

    def keys(self, eps: Iterable[float]) -> list[Key]:
        """The entries that this job makes."""
        return [(self.label, e) for e in ([] if isinstance(self.attack, BallAttack) else [None]) + list(eps)]

    def told(self, subject: Subject, smallest: float | Tensor) -> Job:
        """The job with what its attack leaves unsaid about the subject."""
        return Job(self.label, subject.told(self.attack, eps=smallest))

    def run(self, trial: Trial, eps: Budgets, seed: object) -> dict[Key, Tally]:
        x, wanted = trial.batch.x, None
        if self.attack.targeted:
            seed_all(seed, self.label, "targets")
            wanted = trial.subject.wanted(trial.batch)

        def timed(attack: Attack) -> tuple[Tensor, Tally]:
            return trial.timed(lambda: trial.subject.attack(attack, trial.batch, wanted))

        results: dict[Key, Tally] = {}
        if isinstance(self.attack, BallAttack):
            for e, budget in eps.items():
                seed_all(seed, self.label, e)
                found, tally = timed(dataclasses.replace(self.attack, eps=budget))
                results[self.label, e] = trial.scored(tally, found, budget, wanted)
            return results
        seed_all(seed, self.label)
        found, search = timed(self.attack)
        lengths: list[tuple[float | None, float | Tensor]] = [(None, math.inf), *eps.items()]
        for shown, length in lengths:
            further = overshoot(x, found, self.overshoot, length, trial.norm, trial.subject.bounds)
            tally = dataclasses.replace(search, scores=[], l2=[], shown=[])
            results[self.label, shown] = trial.scored(tally, further, length, wanted)
        return results


@dataclass(frozen=True)
class StrongestJob:
    """`Strongest` at each ε."""

    label: str
    attack: Strongest
    against: Against

    @property
    def settings(self) -> str:
        return self.attack.described(self.against)

    def keys(self, eps: Iterable[float]) -> list[Key]:
        """The entries that this job makes."""
        return [(self.label, e) for e in eps]

    def told(self, subject: Subject, smallest: float | Tensor) -> StrongestJob:
        """The job with what it must know about the subject."""
        layers = any(True for _ in stochastic_layers(subject.model))
        model = uncounted(subject.model)
        against = dataclasses.replace(
            self.against,
            margin=subject.task.margin is not None,
            layers=layers,
            surrogates=surrogates(model),
            bound=margin_bound(model),
        )
        return dataclasses.replace(self, against=against)

    def run(self, trial: Trial, eps: Budgets, seed: object) -> dict[Key, Tally]:
        return {
            (self.label, e): self.attack.run(trial, budget, self.against, f"{seed}/{self.label}/{e}")
            for e, budget in eps.items()
        }


AnyJob = Job | StrongestJob


def named_jobs(
    wanted: Sequence[Wish], *, norm: Norm, steps: int, eot: int, source: nn.Module | None, stochastic: bool
) -> list[AnyJob]:
    """The attacks under their names in the report; the boundary attack also on raw noise where there is noise."""
    jobs: list[AnyJob] = []
    for attack in wanted:
        if isinstance(attack, str) and attack in NAMED:
            jobs.append(StrongestJob(attack, NAMED[attack], Against(stochastic, source)))
        elif isinstance(attack, str):
            if attack not in NAMES:
                names = ", ".join((*NAMES, *NAMED))
                raise ValueError(f"unknown attack {attack!r}: choose from {names}, or pass an attack object")
            jobs.append(Job(attack, named_attack(attack, norm=norm, steps=steps, eot=eot, source=source)))
            if attack == "boundary" and stochastic and "boundary-raw" not in wanted:
                jobs.append(Job("boundary-raw", Boundary(noise="raw")))
        elif isinstance(attack, Strongest):
            jobs.append(StrongestJob(_untaken("strongest", jobs), attack, Against(stochastic, source)))
        elif isinstance(attack, Attack):
            if isinstance(attack, BallAttack) and attack.norm != norm:
                raise ValueError(f"{attack} has another norm than this evaluation, {norm!r}")
            if isinstance(attack, BallAttack) and attack.leaves_ball:
                raise ValueError(
                    f"{attack} may leave the ball, and what it finds is no figure of eps: give it clip=True"
                )
            jobs.append(
                Job(_untaken(type(attack).__name__.lower() + ("-raw" if _is_raw(attack) else ""), jobs), attack)
            )
        else:
            raise ValueError(f"an attack must be a name or an attack object, not {attack!r}")
    if len({job.label for job in jobs}) < len(jobs):
        raise ValueError(f"an attack was asked for twice: {', '.join(job.label for job in jobs)}")
    return jobs


def _untaken(label: str, jobs: Sequence[AnyJob]) -> str:
    taken = sum(job.label.split(" #")[0] == label for job in jobs)
    return f"{label} #{taken + 1}" if taken else label


def _is_raw(attack: Attack) -> bool:
    return isinstance(attack, Boundary) and attack.noise == "raw"
