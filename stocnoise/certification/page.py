"""A certificate as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 560, 300, 40


def page(title: str, text: str, curve: Sequence[tuple[float, float]]) -> str:
    """HTML with the text as it is printed, and the curve (radius, certified accuracy) as SVG."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: certificate</title>
<style>body {{ font: 15px sans-serif; max-width: 46em; margin: 2em auto }} pre {{ overflow-x: auto }}</style></head>
<body><h1>{escape(title)}</h1>
{_svg(curve)}
<pre>{escape(text)}</pre>
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
<polyline points="{top} {corner} {end}" fill="none" stroke="#888"/>
<polyline points="{" ".join(points)}" fill="none" stroke="#06c" stroke-width="2"/>
<g font-size="12" fill="#444"><text x="{x0}" y="{float(y1) - 8}">certified accuracy</text>
<text x="{float(x0) - 34}" y="{float(y1) + 4}">100 %</text><text x="{float(x0) - 12}" y="{float(y0) + 14}">0</text>
<text x="{x1}" y="{float(y0) + 14}" text-anchor="end">L2 radius {furthest:.3g}</text></g>
</svg>"""
