"""A certificate as one HTML page that needs nothing else, in the style of a report's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stocnoise.evaluation.page_style import STYLE
from stocnoise.markup import html_table

_WIDTH, _HEIGHT, _MARGIN = 560, 300, 40


def page(
    title: str,
    summary: str,
    warnings: Sequence[str],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str,
    curve: Sequence[tuple[float, float]],
) -> str:
    """Warnings first, then the accuracy at each radius, its curve (radius, accuracy) as SVG, and the terms."""
    told = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    said = f'<section class="warnings"><h2>Warnings</h2><ul>{told}</ul></section>' if told else "<p>No warnings.</p>"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}: certificate</title><style>{STYLE}</style></head>
<body><header><h1>{escape(title)}</h1><p class="big">{escape(summary)}</p></header>
<main>{said}
<h2>Certified accuracy</h2><div class="scroll">{html_table(head, rows)}</div>
{_svg(curve)}
<p class="soft">{escape(note)}</p></main>
</body></html>
"""


def _svg(curve: Sequence[tuple[float, float]]) -> str:
    """Steps: up to and with a radius the accuracy is the one there."""
    furthest = curve[-1][0] or 1.0

    def point(radius: float, accuracy: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * radius / furthest
        y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * accuracy
        return f"{x:.1f},{y:.1f}"

    before, points = 0.0, []
    for radius, accuracy in curve:
        points += [point(before, accuracy), point(radius, accuracy)]
        before = radius
    points.append(point(before, 0.0))
    corner, top, end = point(0, 0), point(0, 1), point(furthest, 0)
    (x0, y0), (_, y1), (x1, _) = (place.split(",") for place in (corner, top, end))
    return f"""<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="certified accuracy against radius">
<polyline class="grid" points="{top} {corner} {end}" fill="none"/>
<polyline class="curve" style="--c:var(--c0)" points="{" ".join(points)}"/>
<g><text x="{x0}" y="{float(y1) - 8}">certified accuracy</text>
<text x="{float(x0) - 34}" y="{float(y1) + 4}">100 %</text><text x="{float(x0) - 12}" y="{float(y0) + 14}">0</text>
<text x="{x1}" y="{float(y0) + 14}" text-anchor="end">L2 radius {furthest:.3g}</text></g>
</svg>"""
