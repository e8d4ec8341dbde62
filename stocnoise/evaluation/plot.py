"""Curves of ASR against ε."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stocnoise.checks import check_all, check_path, optional
from stocnoise.evaluation.measured import WORST, Measured
from stocnoise.evaluation.rates import Rate
from stocnoise.storage import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def blank() -> tuple[Figure, Axes]:
    """An empty picture that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "stocnoise[examples]"') from error
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def draw(
    curves: Sequence[tuple[str, list[tuple[float, Rate]]]],
    norm: str,
    title: str,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """A figure with one line per (label, points), error bars 95 %; with `path` also saved."""
    figure, axes = blank()
    _lines(axes, curves, f"ε ({'L∞' if norm == 'inf' else 'L2'})", title)
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_queries(
    curves: Sequence[tuple[str, list[tuple[float, Rate]]]], title: str, path: str | os.PathLike[str] | None = None
) -> Figure:
    """As `draw`, against queries on a logarithmic scale."""
    figure, axes = blank()
    axes.set_xscale("log")
    _lines(axes, curves, "queries per image", title)
    budgets = sorted({queries for _, points in curves for queries, _ in points})
    axes.set_xticks(budgets, [f"{queries:g}" for queries in budgets])
    axes.set_xticks([], minor=True)
    if path is not None:
        save_figure(figure, path)
    return figure


def _lines(axes: Axes, curves: Sequence[tuple[str, list[tuple[float, Rate]]]], across: str, title: str) -> None:
    for label, points in curves:
        if not points:
            continue
        places = [point[0] for point in points]
        values = [100 * rate.value for _, rate in points]
        bars = [
            [100 * (rate.value - rate.low) for _, rate in points],
            [100 * (rate.high - rate.value) for _, rate in points],
        ]
        axes.errorbar(places, values, yerr=bars, marker="o", markersize=4, capsize=3, label=label)
    axes.set_xlabel(across)
    axes.set_ylabel("attack success rate (%)")
    axes.set_ylim(-2, 102)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def plot_asr(reports: Sequence[Measured], attack: str = WORST, path: str | os.PathLike[str] | None = None) -> Figure:
    """ASR against ε of several models in one picture, under one attack, by default the worst case over attacks.

    Args:
        reports: of `evaluate`, all of the same norm.
        attack: a name that every report has.
        path: save the picture there too.

    Example:
        >>> asked = dict(attacks=["pgd"], eps=[4 / 255, 8 / 255], eot=2, steps=5, draws=8, progress=False)
        >>> reports = [stocnoise.evaluate(each, loader, **asked) for each in (model, student)]
        >>> figure = stocnoise.plot_asr(reports, "pgd", "asr.png")
    """
    check_all("reports", reports, Measured, "what evaluate returned")
    optional(check_path, "path", path)
    norms = {report.settings["norm"] for report in reports}
    if len(norms) != 1:
        raise ValueError("plot_asr needs reports, all of the same norm")
    return draw([(report.model, report.curve(attack)) for report in reports], norms.pop(), attack, path)
