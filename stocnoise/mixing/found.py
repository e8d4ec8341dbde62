"""What a fit found: every candidate with its figures, and which was taken."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from stocnoise.evaluation.rates import Rate
from stocnoise.evaluation.table import percent, table
from stocnoise.mixture import Blend


@dataclass(frozen=True)
class Figures:
    """Clean and robust accuracy of one model on the held-out images, with 95 % intervals."""

    clean: Rate
    robust: Rate
    """On the worst image found for each; an upper bound where the model was not attacked itself."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "clean": self.clean.value,
            "clean_interval": [self.clean.low, self.clean.high],
            "robust": self.robust.value,
            "robust_interval": [self.robust.low, self.robust.high],
        }


@dataclass(frozen=True)
class Candidate(Figures):
    """A mixture that was looked at."""

    blend: Blend
    attacked: bool
    """Whether it was attacked itself; if not, images made on others decided."""

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.blend), **super().to_dict(), "attacked": self.attacked}


@dataclass(frozen=True)
class MixtureFit:
    """What `fit_mixture` found; `print(fit)` is a table. These are figures of the images that chose: report others."""

    candidates: list[Candidate]
    """All that were looked at, by falling clean accuracy."""
    chosen: Candidate | None
    """None: no candidate gains clean accuracy at the permitted loss, and the mixture was left as it was."""
    student: Figures
    teacher: Figures
    settings: dict[str, Any]
    """images, attack, eps, max_loss, draws, seed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "chosen": None if self.chosen is None else self.chosen.to_dict(),
            "student": self.student.to_dict(),
            "teacher": self.teacher.to_dict(),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "settings": dict(self.settings),
        }

    def __str__(self) -> str:
        attacked = [candidate for candidate in self.candidates if candidate.attacked]
        rows = [
            _row("student", ["", "", ""], self.student),
            _row("teacher", ["", "", ""], self.teacher),
            *(_row("chosen" if each is self.chosen else "tried", _numbers(each.blend), each) for each in attacked),
        ]
        loss = 100 * self.settings["max_loss"]
        lines = [
            f"mixture fitted on {self.settings['images']} images: the clean accuracy is the largest that costs at most "
            f"{loss:g} points of the student's robust accuracy",
            f"{self.settings['attack']} at ε = {self.settings['eps']:.4g}, on each candidate itself",
            "",
            *table(["", "a", "k", "T", "clean %", "robust %"], rows),
            "",
            f"{len(self.candidates) - len(attacked)} of {len(self.candidates)} candidates were not attacked: they fell "
            "to images made on others, or have less clean accuracy than the chosen one; `candidates` has them all.",
        ]
        if self.chosen is None:
            lines.append("None gains clean accuracy at this loss: use the student alone.")
        else:
            lines.append("Chosen on these images, so report others: evaluate(mixture, test_loader, 'strongest').")
        return "\n".join(lines)


def _row(name: str, numbers: list[str], figures: Figures) -> list[str]:
    return [name, *numbers, percent(figures.clean), percent(figures.robust)]


def _numbers(blend: Blend) -> list[str]:
    return [f"{number:g}" for number in dataclasses.astuple(blend)]
