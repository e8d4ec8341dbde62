"""The results as lines of JSON, and as the leaderboard in the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stocnoise.storage import replacing

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "defences.md"
START, END = "<!-- leaderboard {scale} -->", "<!-- end of {scale} -->"

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path, line: Line) -> list[Line]:
    """The results with one line more, in the place of an earlier one of the same defence and seed."""
    key = ("defence", "seed")
    lines = [each for each in read(path) if any(each[name] != line[name] for name in key)] + [line]
    lines.sort(key=lambda each: (each["defence"], each["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines))
    return lines


def table(lines: Sequence[Line]) -> str:
    """In Markdown, the most robust first; each seed of a defence has its own row."""
    rows = sorted(lines, key=lambda line: -line["strongest"]["robust"][0])
    several = len({line["seed"] for line in lines}) > 1
    head = [
        "defence",
        "paper",
        "clean %",
        "way of attacking in its paper",
        "robust % that way",
        "robust % under strongest-1",
    ]
    cells = [
        [
            line["title"] + (f", seed {line['seed']}" if several else ""),
            line["source"],
            f"{100 * line['clean'][0]:.1f}",
            line["claimed"]["how"],
            _percent(line["claimed"]["robust"]),
            ("" if line["strongest"]["converged"] else "at most ") + _percent(line["strongest"]["robust"]),
        ]
        for line in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


def _percent(rate: Sequence[float]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * each for each in rate))


def section(lines: Sequence[Line]) -> str:
    """What stands between the marks in the page."""
    first = lines[0]
    about = (
        f"{first['images']} test images, ε = {first['eps']:.4g} in L∞; robust accuracy of single draws, in brackets "
        "95 % over images and draws."
    )
    return f"{about}\n\n{table(lines)}"


def place(page: str, scale: str) -> tuple[str, str]:
    """What stands before and after the section of a scale.

    Raises:
        ValueError: the page has no place for it.
    """
    start, end = (mark.format(scale=scale) for mark in (START, END))
    if start not in page or end not in page:
        raise ValueError(f"the page has no place for {scale}: put {start} and {end} where the table belongs")
    return page.split(start)[0] + start, end + page.split(end)[1]


def replaced(page: str, scale: str, lines: Sequence[Line]) -> str:
    """The page with the section of a scale written anew; ValueError where it has no place for it."""
    before, after = place(page, scale)
    return f"{before}\n\n{section(lines)}\n\n{after}"
