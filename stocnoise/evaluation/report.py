"""The result of an evaluation: a table to print, data to keep, curves to draw."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stocnoise.checks import check_path, check_several, optional
from stocnoise.evaluation.compare import Comparison
from stocnoise.evaluation.examples import Example
from stocnoise.evaluation.measured import Entry, Measured
from stocnoise.evaluation.page import page
from stocnoise.evaluation.plot import draw, draw_queries
from stocnoise.evaluation.query_table import query_lines
from stocnoise.evaluation.stage_table import stage_lines
from stocnoise.evaluation.table import epsilon, percent, table
from stocnoise.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RAW_NOTE = (
    "Boundary appears twice. 'boundary-raw' asks the stochastic model itself, as published evaluations did: the search "
    "follows single lucky draws to points that fool hardly any other draw, so its ASR is low whatever the model is "
    "worth. 'boundary' asks one classifier drawn from the model, with its noise frozen, and goes on past that "
    "classifier's boundary; it is the figure to believe."
)

_BOUND_NOTE = (
    "'at least' is a lower bound of the robust accuracy as far as these attacks go: where the student's margin exceeds "
    "(1−a)/a, no teacher can overrule it (stocnoise.Mixture.margin_bound)."
)

_MORE = {
    "row_accuracy": "whole rows right",
    "row_asr": "row ASR",
    "miou": "mIoU",
    "targeted_asr": "as wanted",
    "margin_bound": "at least",
}


@dataclass(frozen=True)
class Report(Measured):
    """What `evaluate` found. `print(report)` is a table, `report.to_html(path)` a page.

    Example:
        >>> report = stocnoise.evaluate(student, loader, ["pgd"], 8 / 255, eot=2, steps=5, draws=8, progress=False)
        >>> report.attacks
        ['pgd']
        >>> report.save("report.json")
    """

    examples: list[Example] = field(default_factory=list, repr=False, compare=False)
    """Single inputs under each attack, with `evaluate(..., keep_examples=…)`."""

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page in one file that opens offline: warnings, figures, curves, stages, and the examples kept.

        For the pictures say `evaluate(..., keep_examples=12)`.
        """
        check_path("path", path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            temporary.write_text(page(self, self.examples), encoding="utf-8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON; a reader never sees half of it."""
        check_path("path", path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def plot(self, attacks: Sequence[str] | None = None, path: str | os.PathLike[str] | None = None) -> Figure:
        """ASR against ε, a curve with 95 % bars for each attack; with `path` also saved. Needs matplotlib."""
        optional(check_path, "path", path)
        optional(check_several, "attacks", attacks, "names of the report's")
        names = self.attacks if attacks is None else list(attacks)
        return draw([(name, self.curve(name)) for name in names], self.settings["norm"], self.model, path)

    def plot_queries(self, eps: float | None = None, path: str | os.PathLike[str] | None = None) -> Figure:
        """ASR at one ε, by default the largest, against queries, a curve with 95 % bars for each attack that counts.

        What asks nothing, such as transfer, is a level line. With `path` also saved. Needs matplotlib.

        Raises:
            ValueError: the report is of no budgets of queries, or has no such ε.
        """
        optional(check_path, "path", path)
        if eps is None:
            eps = max((entry.eps for entry in self.counted if entry.eps is not None), default=0.0)
        return draw_queries(self.query_curves(eps), f"{self.model}, ε = {eps:.4g}", path)

    def compare(self, *others: Report) -> Comparison:
        """One table of this report and others: the same attack and ε side by side."""
        return Comparison([self, *others])

    def __str__(self) -> str:
        clean, settings = self.clean, self.settings
        norm = {"inf": "L∞", "l2": "L2"}[settings["norm"]]
        lines = [
            f"{self.model}: {settings['images']} images, {'stochastic' if settings['stochastic'] else 'deterministic'}",
            f"clean accuracy {percent(clean.accuracy)} per draw"
            + (
                f", spread over {settings['draws']} passes {100 * clean.spread:.1f}; vote {100 * clean.vote:.1f}, "
                f"averaged {100 * clean.averaged:.1f}"
                if settings["stochastic"]
                else ""
            )
            + "".join(f"; {_MORE[name]} {100 * value:.1f}" for name, value in clean.more.items()),
            "",
            *self._table(norm, [entry for entry in self.entries if entry.budget is None]),
            *(query_lines(self.counted, norm, settings["stochastic"]) if self.counted else []),
            *(line for entry in self.entries if entry.stages for line in stage_lines(entry)),
            *self._notes(),
        ]
        if self.warnings:
            lines += ["", f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}:"]
            lines += [f"  ! {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _table(self, norm: str, entries: Sequence[Entry]) -> list[str]:
        """Of attacks without a budget of queries; no line where there are none."""
        if not entries:
            return []
        more = list(dict.fromkeys(name for entry in entries for name in entry.more))
        added = [_MORE[name] for name in more]
        draws = self.settings["draws"]
        head = f"attack|{norm} ε|ASR %|robust %|vote ASR|averaged|any of {draws}|gradients|s".split("|")
        rows = [
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
                *(f"{100 * entry.more[name]:.1f}" if name in entry.more else "–" for name in more),
            ]
            for entry in entries
        ]
        return [*table([*head, *added], rows), ""]

    def _notes(self) -> list[str]:
        settings = self.settings
        steps, eot, draws = settings["steps"], settings["eot"], settings["draws"]
        notes = [
            "ASR = P(f(x+δ) ≠ y | f(x) = y)"
            + (f", scored on {draws} fresh draws" if settings["stochastic"] else "")
            + "; in brackets 95 % over images and draws.",
        ]
        if not self.counted:
            notes.append(
                f"Named gradient attacks: {steps} steps × {eot} draws of the noise = {steps * eot} gradients per "
                "image; 'gradients' is what each used. Compare models and attacks at equal numbers."
            )
        if settings["stochastic"]:
            notes.append("The attacker knows the model and the distribution of its noise, not the draw.")
        if any("margin_bound" in entry.more for entry in self.entries):
            notes.append(_BOUND_NOTE)
        if {"boundary", "boundary-raw"} <= {entry.attack for entry in self.entries if entry.budget is None}:
            notes.append(_RAW_NOTE)
        return notes
