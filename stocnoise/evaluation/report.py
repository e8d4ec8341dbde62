"""The result of an evaluation: a table to print, data to keep, curves to draw."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stocnoise.evaluation.scoring import Rate, Score, Successes
from stocnoise.evaluation.table import epsilon, percent, table
from stocnoise.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stocnoise.evaluation.compare import Comparison

WORST = "worst case"
_RAW_NOTE = (
    "Boundary appears twice. 'boundary-raw' asks the stochastic model itself, as published evaluations did: the search "
    "follows single lucky draws to points that fool hardly any other draw, so its ASR is low whatever the model is "
    "worth. 'boundary' asks one classifier drawn from the model, with its noise frozen, and goes on past that "
    "classifier's boundary; it is the figure to believe."
)


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

    def to_dict(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "eps": self.eps,
            "asr": _number(self.asr.value),
            "asr_interval": [_number(self.asr.low), _number(self.asr.high)],
            "robust_accuracy": self.robust_accuracy.value,
            "robust_accuracy_interval": [self.robust_accuracy.low, self.robust_accuracy.high],
            "vote_asr": _number(self.vote_asr),
            "averaged_asr": _number(self.averaged_asr),
            "any_asr": _number(self.any_asr),
            "images": self.images,
            "gradients_per_image": self.gradients,
            "queries_per_image": self.queries,
            "seconds": self.seconds,
            "median_l2": self.median_l2,
            "settings": self.settings,
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

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy.value,
            "interval": [self.accuracy.low, self.accuracy.high],
            "spread": self.spread,
            "vote_accuracy": self.vote,
            "averaged_accuracy": self.averaged,
        }


@dataclass(frozen=True)
class Report:
    """What `evaluate` found. `print(report)` is a table."""

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON; a reader never sees half of it."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def plot(self, attacks: Sequence[str] | None = None, path: str | os.PathLike[str] | None = None) -> Figure:
        """ASR against ε, a curve with 95 % bars for each attack; with `path` also saved. Needs matplotlib."""
        from stocnoise.evaluation.plot import draw

        names = self.attacks if attacks is None else list(attacks)
        return draw([(name, self.curve(name)) for name in names], self.settings["norm"], self.model, path)

    def curve(self, attack: str) -> list[tuple[float, Rate]]:
        """(ε, ASR) of an attack, by rising ε."""
        if attack not in self.attacks:
            raise ValueError(f"the report has no attack {attack!r}, only {', '.join(self.attacks)}")
        points = [(entry.eps, entry.asr) for entry in self.entries if entry.attack == attack and entry.eps is not None]
        return sorted(points)

    def compare(self, *others: Report) -> Comparison:
        """One table of this report and others: the same attack and ε side by side."""
        from stocnoise.evaluation.compare import Comparison

        return Comparison([self, *others])

    def __str__(self) -> str:
        clean, settings = self.clean, self.settings
        norm, draws = {"inf": "L∞", "l2": "L2"}[settings["norm"]], settings["draws"]
        lines = [
            f"{self.model}: {settings['images']} images, {'stochastic' if settings['stochastic'] else 'deterministic'}",
            f"clean accuracy {percent(clean.accuracy)} per draw"
            + (
                f", spread over {draws} passes {100 * clean.spread:.1f}; vote {100 * clean.vote:.1f}, "
                f"averaged {100 * clean.averaged:.1f}"
                if settings["stochastic"]
                else ""
            ),
            "",
            *table(
                f"attack|{norm} ε|ASR %|robust %|vote ASR|averaged|any of {draws}|gradients|s".split("|"),
                [
                    [
                        entry.attack,
                        epsilon(entry.eps, entry.median_l2),
                        percent(entry.asr),
                        f"{100 * entry.robust_accuracy.value:.1f}",
                        f"{100 * entry.vote_asr:.1f}",
                        f"{100 * entry.averaged_asr:.1f}",
                        f"{100 * entry.any_asr:.1f}",
                        f"{entry.gradients:.0f}",
                        f"{entry.seconds:.1f}",
                    ]
                    for entry in self.entries
                ],
            ),
            "",
            *self._notes(),
        ]
        if self.warnings:
            lines += ["", f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}:"]
            lines += [f"  ! {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        settings = self.settings
        steps, eot, draws = settings["steps"], settings["eot"], settings["draws"]
        notes = [
            "ASR = P(f(x+δ) ≠ y | f(x) = y)"
            + (f", scored on {draws} fresh draws" if settings["stochastic"] else "")
            + "; in brackets 95 % over images and draws.",
            f"Named gradient attacks: {steps} steps × {eot} draws of the noise = {steps * eot} gradients per image; "
            "'gradients' is what each used. Compare models and attacks at equal numbers.",
        ]
        if settings["stochastic"]:
            notes.append("The attacker knows the model and the distribution of its noise, not the draw.")
        if {"boundary", "boundary-raw"} <= set(self.attacks):
            notes.append(_RAW_NOTE)
        return notes


def _number(value: float) -> float | None:
    """JSON has no NaN, which an ASR is when nothing was classified correctly to begin with."""
    return None if math.isnan(value) else value
