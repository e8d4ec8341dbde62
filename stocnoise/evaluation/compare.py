"""Several reports side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stocnoise.checks import check_all
from stocnoise.evaluation.measured import Entry, Measured
from stocnoise.evaluation.rates import difference
from stocnoise.evaluation.table import epsilon, percent, table
from stocnoise.evaluation.trials import Key


@dataclass(frozen=True)
class Comparison:
    """Several reports as one table, and how far each is from the first one."""

    reports: list[Measured]

    def __post_init__(self) -> None:
        check_all("others", self.reports, Measured, "reports of evaluate")
        norms = {report.settings["norm"] for report in self.reports}
        if len(norms) > 1:
            raise ValueError("reports of different norms cannot be compared")

    def _keys(self) -> list[Key]:
        return list(dict.fromkeys(entry.key for report in self.reports for entry in report.entries))

    def to_dict(self) -> dict[str, Any]:
        """Each attack and ε with the ASR of every model, and, on the same images, differences from the first."""
        rows = []
        for key in self._keys():
            found = [_find(report, key) for report in self.reports]
            rows.append(
                {
                    "attack": key[0],
                    "eps": key[1],
                    **({"query_budget": key[2]} if len(key) == 3 else {}),
                    "asr": [None if entry is None else entry.asr.value for entry in found],
                    "difference": [self._difference(found[0], entry) for entry in found[1:]],
                }
            )
        return {"models": [report.model for report in self.reports], "rows": rows}

    def _difference(self, first: Entry | None, other: Entry | None) -> list[float] | None:
        """ASR of `other` minus that of `first`, with its paired 95 % interval."""
        if first is None or other is None or not self._same_images():
            return None
        value, error = difference(other.successes, first.successes)
        return [value, value - 1.96 * error, value + 1.96 * error]

    def _same_images(self) -> bool:
        return len({report.settings["fingerprint"] for report in self.reports}) == 1

    def __str__(self) -> str:
        names = [report.model for report in self.reports]
        rows = [["clean accuracy", "", *(percent(report.clean.accuracy) for report in self.reports)]]
        rows += [["  averaged", "", *(f"{100 * report.clean.averaged:.1f}" for report in self.reports)]]
        for key, data in zip(self._keys(), self.to_dict()["rows"], strict=True):
            found = [_find(report, key) for report in self.reports]
            shown = next(entry for entry in found if entry is not None)
            cells = ["–" if entry is None else percent(entry.asr) for entry in found]
            for i, gap in enumerate(data["difference"], start=1):
                if gap is not None:
                    cells[i] += f"  Δ {100 * gap[0]:+.1f} [{100 * gap[1]:+.1f}, {100 * gap[2]:+.1f}]"
            asked = f", {key[2]} queries" if len(key) == 3 else ""
            rows.append([f"{key[0]}{asked}", epsilon(key[1], shown.median_l2), *cells])
        lines = table(["ASR %", "ε", *names], rows)
        if self._same_images():
            lines += ["", f"Δ: from {names[0]}, with its 95 % interval, paired over the same images."]
        else:
            lines += ["", "The reports are of different images: no paired differences."]
        budgets = {_budget(report) for report in self.reports}
        if len(budgets) > 1:
            lines.append(
                "The budgets differ: "
                + "; ".join(f"{report.model} {_budget(report)} gradients per image" for report in self.reports)
                + " for a named attack."
            )
        return "\n".join(lines)


def _budget(report: Measured) -> int:
    return int(report.settings["steps"] * report.settings["eot"])


def _find(report: Measured, key: Key) -> Entry | None:
    return next((entry for entry in report.entries if entry.key == key), None)
