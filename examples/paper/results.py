"""The results of a scale as one file, results.jsonl: a line for the scale, each training and each measurement."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from examples.paper.scale import Scale
from examples.paper.train import folder
from examples.paper.units import stages
from stocnoise.storage import replacing


class Figure(NamedTuple):
    """A rate: its mean over seeds, and a standard error that covers images, draws and seeds."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {196 * self.error:.1f}"

    def minus(self, other: Figure) -> Figure:
        """The difference as if the two were independent, which for the same images is on the safe side."""
        return Figure(self.value - other.value, math.hypot(self.error, other.error))


def collect(scale: Scale, work: Path, out: Path) -> None:
    """Gather what the units left into out/results.jsonl; what is not done yet is left out."""
    lines: list[dict[str, Any]] = [{"kind": "scale", **dataclasses.asdict(scale)}]
    for unit in (unit for stage in stages(scale) for unit in stage):
        about = {"seed": unit.seed, "recipe": unit.recipe.name, "title": unit.recipe.title}
        kind = unit.measurement or "training"
        path = folder(work, scale, unit.seed, unit.recipe.name) / f"{kind}.json"
        if path.exists():
            found = json.loads(path.read_text())
            if unit.seed != scale.seeds[0]:
                found.pop("plane", None)
            lines.append({"kind": kind, **about, **found})
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "results.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


@dataclass(frozen=True)
class Results:
    """What `collect` wrote, to be asked by recipe, kind, attack and ε."""

    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, out: Path) -> Results:
        path = out / "results.jsonl"
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: run the scale first, without --report")
        return cls([json.loads(line) for line in path.read_text().splitlines()])

    def of(self, recipe: str, kind: str) -> list[dict[str, Any]]:
        """The lines of that recipe and kind, by seed."""
        return [line for line in self.lines if line["kind"] == kind and line.get("recipe") == recipe]

    def clean(self, recipe: str, kind: str | None = None) -> Figure | None:
        """Accuracy without an attack, of one draw; by default on as many images as there is a figure for."""
        kinds = ("strongest", "plain") if kind is None else (kind,)
        lines: list[dict[str, Any]] = next((found for each in kinds if (found := self.of(recipe, each))), [])
        found = [line["clean"] for line in lines]
        return _over_seeds([(each["accuracy"], each["interval"]) for each in found])

    def figure(
        self, recipe: str, kind: str, attack: str, eps: float | None, norm: str = "inf", key: str = "asr"
    ) -> Figure | None:
        """ASR (or `key`) of an attack at an ε; None if nobody measured it."""
        found = [
            (entry[key], entry[f"{key}_interval"])
            for line in self.of(recipe, kind)
            for entry in line["attacks"]
            if entry["attack"] == attack and entry["norm"] == norm and _same(entry["eps"], eps)
        ]
        return _over_seeds([pair for pair in found if pair[0] is not None])


def _same(written: float | None, eps: float | None) -> bool:
    """Figures are written with five digits."""
    return written == eps if written is None or eps is None else math.isclose(written, eps, abs_tol=1e-5)


def _over_seeds(found: list[tuple[float, list[float]]]) -> Figure | None:
    if not found:
        return None
    values = [value for value, _ in found]
    mean = sum(values) / len(values)
    # Seeds share the test images, whose error therefore does not shrink with their number.
    images = sum((high - low) / 3.92 for _, (low, high) in found) / len(found)
    seeds = 0.0 if len(values) == 1 else sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
    return Figure(mean, math.hypot(images, math.sqrt(seeds)))
