"""One attack on one batch, at each ε, scored on fresh draws."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack, BallAttack, Boundary, overshoot
from stocnoise.attacks.ball import Norm, norms
from stocnoise.attacks.registry import named_attack
from stocnoise.evaluation.inputs import Counted
from stocnoise.evaluation.scoring import Score, score

Key = tuple[str, float | None]

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

    def keys(self, eps: Sequence[float]) -> list[Key]:
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
    """By how much an image left the ball or [0, 1] at most."""
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


def run_job(
    model: Counted, job: Job, x: Tensor, y: Tensor, eps: Sequence[float], norm: Norm, draws: int, seed: object
) -> dict[Key, Tally]:
    """Attack and score one batch; the model is in eval mode.

    An attack in a ball runs at each ε. A minimum-norm attack runs once; its images are scored as it made them, pushed
    on by `job.overshoot`, and cut to each ε.
    """
    if isinstance(job.attack, BallAttack):
        results: dict[Key, Tally] = {}
        for e in eps:
            seed_all(seed, job.label, e)
            tally = Tally()
            found = _timed(model, dataclasses.replace(job.attack, eps=e), x, y, tally)
            results[job.label, e] = _scored(model, tally, x, found, y, e, norm, draws)
        return results
    seed_all(seed, job.label)
    search = Tally()
    found = _timed(model, job.attack, x, y, search)
    return {
        (job.label, e): _scored(
            model,
            dataclasses.replace(search, scores=[], l2=[]),
            x,
            overshoot(x, found, job.overshoot, float("inf") if e is None else e, norm),
            y,
            e,
            norm,
            draws,
        )
        for e in [None, *eps]
    }


def _timed(model: Counted, attack: Attack, x: Tensor, y: Tensor, tally: Tally) -> Tensor:
    gradients, queries = model.gradients, model.queries
    _wait(x)
    start = time.perf_counter()
    found = attack(model, x, y)
    _wait(x)
    tally.seconds = time.perf_counter() - start
    tally.gradients, tally.queries = model.gradients - gradients, model.queries - queries
    return found


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _scored(
    model: Counted, tally: Tally, x: Tensor, found: Tensor, y: Tensor, eps: float | None, norm: Norm, draws: int
) -> Tally:
    delta = found.double() - x.double()
    outside = torch.maximum(-found.amin(), found.amax() - 1).item()
    beyond = 0.0 if eps is None else (norms(delta, norm).amax() - eps).item()
    # NaN compares false with everything: let it count as outside.
    tally.excess = max(outside, beyond, 0.0) if outside == outside else float("inf")
    tally.l2.append(norms(delta, "l2").float().cpu())
    tally.scores.append(score(model, found.nan_to_num(0.0).clamp(0, 1), y, draws))
    return tally
