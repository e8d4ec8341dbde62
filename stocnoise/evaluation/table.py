"""Figures as text."""

from __future__ import annotations

from stocnoise.evaluation.rates import Rate


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def epsilon(eps: float | None, median_l2: float) -> str:
    """ε as shown: in steps of 1/255 where it is one; None as the size that was found instead."""
    if eps is None:
        return f"any (L2 {median_l2:.2f})"
    levels = eps * 255
    if abs(levels - round(levels)) < 1e-4 and levels <= 32:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Aligned lines: the first two columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [line(head), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]
