"""ASR against ε, or against queries, as inline SVG, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from stocnoise.evaluation.rates import Rate

Curve = tuple[str, Sequence[tuple[float, Rate]]]
"""A label, and (ε, ASR) or (queries, ASR) by rising ε or number."""

_Place = Callable[[float, float], str]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 340, 62, 20, 14, 52
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
COLOURS = 8
"""Colours of curves in the style sheet, --c0 to --c7; beyond, they repeat with another dash."""


def svg(curves: Sequence[Curve], norm: str) -> str:
    """Against ε: lines with 95 % bands; a single ε is a dot with a bar."""
    return _drawn(curves, f"{norm} ε", "epsilon", "ε", lambda eps: eps)


def query_svg(curves: Sequence[Curve]) -> str:
    """The same against queries, on a logarithmic scale."""
    return _drawn(curves, "queries per image", "queries", "queries", math.log)


def _drawn(curves: Sequence[Curve], across: str, said: str, unit: str, scale: Callable[[float], float]) -> str:
    lengths = [eps for _, points in curves for eps, _ in points]
    if not lengths:
        return ""
    low, high = min(lengths), max(lengths)
    low, high = map(scale, (low, high) if low < high else (low * 0.5, high * 1.5))

    def place(eps: float, value: float) -> str:
        x = _LEFT + (scale(eps) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Attack success rate against {said}">',
        *_axes(sorted(set(lengths)), place, across),
    ]
    for number, (label, points) in enumerate(curves):
        known = [(eps, rate) for eps, rate in points if rate.value == rate.value]
        if known:
            parts.append(_curve(number, label, known, place, unit))
    return "".join([*parts, "</svg>"])


def _axes(lengths: Sequence[float], place: _Place, across: str) -> list[str]:
    parts = []
    for percent in range(0, 101, 25):
        left, right = place(lengths[0], percent / 100).split(",")[1], _WIDTH - _RIGHT
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{left}" y2="{left}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{float(left) + 4:.1f}" text-anchor="end">{percent}</text>')
    shown = lengths if len(lengths) <= 8 else lengths[:: -(-len(lengths) // 8)]
    for eps in shown:
        x = place(eps, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 22}" text-anchor="middle">{_short(eps)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text x="{-_HEIGHT / 2}" y="14" transform="rotate(-90)" text-anchor="middle">ASR %</text>')
    return parts


def _curve(number: int, label: str, points: Sequence[tuple[float, Rate]], place: _Place, unit: str) -> str:
    colour, dash = f"var(--c{number % COLOURS})", _DASHES[number // COLOURS % len(_DASHES)]
    upper = [place(eps, rate.high) for eps, rate in points]
    lower = [place(eps, rate.low) for eps, rate in reversed(points)]
    line = [place(eps, rate.value) for eps, rate in points]
    drawn = [f'<g data-attack="{escape(label)}" style="--c:{colour}"><title>{escape(label)}</title>']
    if len(points) > 1:
        drawn.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
        drawn.append(f'<polyline class="curve" stroke-dasharray="{dash}" points="{" ".join(line)}"/>')
    else:
        (x, top), (_, bottom) = upper[0].split(","), lower[0].split(",")
        drawn.append(f'<line class="curve" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
    for point, (eps, rate) in zip(line, points, strict=True):
        x, y = point.split(",")
        interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        told = f"{label}, {unit} = {_short(eps, 4)}: {100 * rate.value:.1f} % {interval}"
        drawn.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"><title>{escape(told)}</title></circle>')
    return "".join([*drawn, "</g>"])


def _short(value: float, digits: int = 3) -> str:
    return f"{value:d}" if isinstance(value, int) else f"{value:.{digits}g}"
