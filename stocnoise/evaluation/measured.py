"""What an evaluation measured: figures of each attack at each ε, and of the model without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stocnoise.evaluation.rates import Rate, Successes, number
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.stages import Stage
from stocnoise.evaluation.trials import Key

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
    budget: int | None = None
    """Of an attack that may only ask: queries that it had for each image."""
    answers: int | None = None
    """Of such an attack: answers to each question."""

    @property
    def key(self) -> Key:
        """What it goes by in a report."""
        return (self.attack, self.eps) if self.budget is None else (self.attack, self.eps, self.budget)

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
            **({} if self.budget is None else {"query_budget": self.budget, "answers_per_question": self.answers}),
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

    def __getitem__(self, key: Key) -> Entry:
        """The entry of (attack, ε), or of (attack, ε, queries) where the attack had a budget of them."""
        for entry in self.entries:
            if entry.key == key:
                return entry
        raise KeyError(key)

    @property
    def counted(self) -> list[Entry]:
        """The entries of attackers who may only ask, each at a budget of queries."""
        return [entry for entry in self.entries if entry.budget is not None]

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
        """(ε, ASR) of an attack, by rising ε; with the largest of its budgets of queries."""
        found = self._of(attack)
        most = max((entry.budget or 0 for entry in found), default=0)
        return sorted((e.eps, e.asr) for e in found if e.eps is not None and (e.budget or 0) == most)

    def query_curves(self, eps: float | None) -> list[tuple[str, list[tuple[float, Rate]]]]:
        """By attack at one ε (queries, ASR), by rising budget; level for what asks nothing, such as transfer.

        Raises:
            ValueError: the report is of no budgets of queries, or has no such ε.
        """
        lengths = [entry.eps for entry in self.counted]
        if not lengths:
            raise ValueError(
                "the report has no attack at a budget of queries: evaluate(..., queries=[200, 1000, 5000])"
            )
        if eps not in lengths:
            known = sorted({length for length in lengths if length is not None})
            raise ValueError(f"the report has no eps = {eps}, only {', '.join(map(str, known))}")
        budgets = sorted({entry.budget for entry in self.entries if entry.budget is not None})
        curves: dict[str, list[tuple[float, Rate]]] = {}
        for entry in self.entries:
            if entry.eps == eps and (entry.budget is not None or entry.gradients == entry.queries == 0):
                points = budgets if entry.budget is None else [entry.budget]
                curves.setdefault(entry.attack, []).extend((queries, entry.asr) for queries in points)
        return [(attack, sorted(points)) for attack, points in curves.items()]

    def _of(self, attack: str) -> list[Entry]:
        if attack not in self.attacks:
            raise ValueError(f"the report has no attack {attack!r}, only {', '.join(self.attacks)}")
        return [entry for entry in self.entries if entry.attack == attack]
