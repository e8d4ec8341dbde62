"""Pieces of a Markdown page, line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from examples.paper.results import Figure


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def picture(pictures: dict[str, str], name: str, what: str) -> Iterator[str]:
    if name in pictures:
        yield ""
        yield f"![{what}]({pictures[name]})"
        yield ""


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def cell(figure: Figure | None) -> str:
    return "–" if figure is None else str(figure)
