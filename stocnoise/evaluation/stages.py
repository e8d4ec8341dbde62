"""What an attack in stages leaves behind: tallies of batches, and figures of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stocnoise.evaluation.cascade import Cascade
from stocnoise.evaluation.rates import Rate, accuracy, number, successes
from stocnoise.evaluation.scoring import Score

# An attack has converged if its last stage takes no more than this of the robust accuracy.
TOLERANCE = 0.005


@dataclass(frozen=True)
class CandidateTally:
    """One attack of a stage, on the images that stood: of one batch, or of several put together."""

    scores: list[Score]
    won: int
    """Images on which it was better than everything before it."""
    gradients: int
    queries: int
    seconds: float

    def plus(self, other: CandidateTally) -> CandidateTally:
        return CandidateTally(
            self.scores + other.scores,
            self.won + other.won,
            self.gradients + other.gradients,
            self.queries + other.queries,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class StageTally:
    """One stage on one batch, or on several put together."""

    steps: int
    tries: int
    seen: list[Tensor]
    """(n,) of bool: the images that stood before it."""
    best: list[Score]
    """Of all images, after it."""
    candidates: dict[str, CandidateTally]

    def plus(self, other: StageTally) -> StageTally:
        names = dict.fromkeys([*self.candidates, *other.candidates])
        both = {name: [t.candidates[name] for t in (self, other) if name in t.candidates] for name in names}
        candidates = {name: found[0].plus(found[1]) if len(found) > 1 else found[0] for name, found in both.items()}
        return StageTally(self.steps, self.tries, self.seen + other.seen, self.best + other.best, candidates)


@dataclass(frozen=True)
class Candidate:
    """One attack of a stage, in figures."""

    attack: str
    images: int
    won: int
    """Images on which it was better than everything before it."""
    asr: Rate
    """Of the images that it was tried on."""
    robust_accuracy: Rate
    gradients: float
    """Per image that it was tried on."""
    queries: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "images": self.images,
            "won": self.won,
            "asr": number(self.asr.value),
            "robust_accuracy": self.robust_accuracy.value,
            "gradients_per_image": self.gradients,
            "queries_per_image": self.queries,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Stage:
    """One stage of an attack, in figures: what had fallen after it, and what it cost."""

    steps: int
    tries: int
    """Draws a gradient; against a model without noise, restarts."""
    images: int
    """Those that stood before it."""
    asr: Rate
    robust_accuracy: Rate
    taken: float
    """Of the robust accuracy, since the stage before it; since no attack at all, for the first."""
    gradients: float
    """Per image of all images."""
    seconds: float
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "tries": self.tries,
            "images": self.images,
            "asr": number(self.asr.value),
            "asr_interval": [number(self.asr.low), number(self.asr.high)],
            "robust_accuracy": self.robust_accuracy.value,
            "robust_accuracy_interval": [self.robust_accuracy.low, self.robust_accuracy.high],
            "taken": self.taken,
            "gradients_per_image": self.gradients,
            "seconds": self.seconds,
            "attacks": [candidate.to_dict() for candidate in self.candidates],
        }


def figures(clean: Score, tallies: Sequence[StageTally]) -> Iterator[Stage]:
    """Stage by stage, over all images."""
    before = accuracy(clean).value
    for tally in tallies:
        seen = torch.cat(tally.seen)
        asr, robust = Cascade(clean, [Score.cat(tally.best)]).rates()
        yield Stage(
            steps=tally.steps,
            tries=tally.tries,
            images=int(seen.sum()),
            asr=asr,
            robust_accuracy=robust,
            taken=before - robust.value,
            gradients=sum(each.gradients for each in tally.candidates.values()) / len(seen),
            seconds=sum(each.seconds for each in tally.candidates.values()),
            candidates=tuple(_candidate(name, clean.at(seen), each) for name, each in tally.candidates.items()),
        )
        before = robust.value


def _candidate(name: str, clean: Score, tally: CandidateTally) -> Candidate:
    score = Score.cat(tally.scores)
    images = len(score.averaged)
    return Candidate(
        attack=name,
        images=images,
        won=tally.won,
        asr=successes(clean, score).rate,
        robust_accuracy=accuracy(score),
        gradients=tally.gradients / images,
        queries=tally.queries / images,
        seconds=tally.seconds,
    )


def converged(stages: Sequence[Stage]) -> bool | None:
    """Whether the last stage took no more than half a point; None where one stage alone cannot tell."""
    return stages[-1].taken <= TOLERANCE if len(stages) > 1 else None
