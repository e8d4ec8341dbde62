"""What an evaluation measured: figures of each attack at each ε, and of the model without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stocnoise.evaluation.rates import Rate, Successes, number
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.stages import Stage

WORST = "worst case"


@dataclass(frozen=True)
class Entry:
    """One attack at one ε; `eps` None means the perturbation as large as a minimum-norm attack made it."""

    attack: str
    eps: float | None
    asr: Rate
    robust_accuracy: Rate
    vote_asr: float
    averaged_asr: float
    any_asr: float
    images: int
    gradients: float
    """Gradient evaluations per image; for a minimum-norm attack those of the one search behind all its entries."""
    queries: float
    """Forward passes without gradient, per image."""
    seconds: float
    median_l2: float
    """Median ‖δ‖₂ of the images as scored."""
    settings: str
    successes: Successes = field(repr=False, compare=False)
    score: Score = field(repr=False, compare=False)
    """By image, whether each fresh draw is right under the attack; for the worst case, draws that did not choose it."""
    more: dict[str, float] = field(default_factory=dict)
    """What the task or the attack adds: `row_asr` of whole rows, `miou`, `targeted_asr`."""
    stages: tuple[Stage, ...] = ()
    """Of an attack in stages, each with what it took."""
    converged: bool | None = None
    """Whether the last stage took next to nothing; None where there is none to tell by."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "eps": self.eps,
            "asr": number(self.asr.value),
            "asr_interval": [number(self.asr.low), number(self.asr.high)],
            "robust_accuracy": self.robust_accuracy.value,
            "robust_accuracy_interval": [self.robust_accuracy.low, self.robust_accuracy.high],
            "vote_asr": number(self.vote_asr),
            "averaged_asr": number(self.averaged_asr),
            "any_asr": number(self.any_asr),
            "images": self.images,
            "gradients_per_image": self.gradients,
            "queries_per_image": self.queries,
            "seconds": self.seconds,
            "median_l2": self.median_l2,
            "settings": self.settings,
            **{name: number(value) for name, value in self.more.items()},
            **({"stages": [s.to_dict() for s in self.stages], "converged": self.converged} if self.stages else {}),
        }


@dataclass(frozen=True)
class Clean:
    """Accuracy without an attack."""

    accuracy: Rate
    spread: float
    """Standard deviation of the accuracy over passes, each over all images with new noise."""
    vote: float
    averaged: float
    score: Score = field(repr=False, compare=False)
    """Image by image, whether each draw is right."""
    more: dict[str, float] = field(default_factory=dict)
    """What the task adds: `row_accuracy` of whole rows, `miou`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy.value,
            "interval": [self.accuracy.low, self.accuracy.high],
            "spread": self.spread,
            "vote_accuracy": self.vote,
            "averaged_accuracy": self.averaged,
            **{name: number(value) for name, value in self.more.items()},
        }


@dataclass(frozen=True)
class Measured:
    """The figures of one model; `Report` shows them."""

    model: str
    clean: Clean
    entries: list[Entry]
    warnings: list[str]
    settings: dict[str, Any]
    """images, norm, eot, steps, draws, seed, stochastic, versions, device, fingerprint of the data, …"""

    def __getitem__(self, key: tuple[str, float | None]) -> Entry:
        """The entry of (attack, ε)."""
        for entry in self.entries:
            if entry.attack == key[0] and entry.eps == key[1]:
                return entry
        raise KeyError(key)

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, in order."""
        return list(dict.fromkeys(entry.attack for entry in self.entries))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `model`, `clean`, `attacks` (entries, each with `asr`), `warnings`, `settings`."""
        return {
            "model": self.model,
            "clean": self.clean.to_dict(),
            "attacks": [entry.to_dict() for entry in self.entries],
            "warnings": list(self.warnings),
            "settings": dict(self.settings),
        }

    def curve(self, attack: str) -> list[tuple[float, Rate]]:
        """(ε, ASR) of an attack, by rising ε."""
        if attack not in self.attacks:
            raise ValueError(f"the report has no attack {attack!r}, only {', '.join(self.attacks)}")
        points = [(entry.eps, entry.asr) for entry in self.entries if entry.attack == attack and entry.eps is not None]
        return sorted(points)
