"""What was converted, with what noise, and what was left alone: a table to print, data to test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from torch import nn

from stocnoise.controls import stochastic_layers
from stocnoise.conversion.changing.sites import LeftAlone, Site, conversion_of, student_in
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation
from stocnoise.markup import html_table

_HEADER = ("layer", "kind", "activation", "C", "dim", "γ", "mean σ", "batches")


@dataclass(frozen=True)
class Row:
    """One stochastic layer. `kind` and `site` are empty for a layer that `convert` did not make."""

    layer: str
    kind: str
    site: str
    activation: str
    channels: int
    channel_dim: int
    gamma: float
    sigma: float
    """Mean of σ over the channels."""
    batches: int
    reason: str = ""
    """Why it is an activation that stood there, where that was told from its values."""


@dataclass(frozen=True)
class Summary:
    """`print(summary)` is a table; `rows` and `left` are what stands in it."""

    model: str
    rows: tuple[Row, ...]
    left: tuple[LeftAlone, ...]
    input_noise: float | None = None
    """σ of `with_input_noise`."""

    def __str__(self) -> str:
        return "\n".join([self._title(), "", table(_HEADER, self._lines(), right=3), *self._told()])

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        left = "".join(f"<div>{escape(line.strip())}</div>" for line in self._told() if line)
        return html_table(_HEADER, self._lines(), left=3, title=self._title()) + left

    def _title(self) -> str:
        kinds = [f"{sum(row.kind == kind for row in self.rows)} {kind}" for kind in _kinds(self.rows)]
        title = f"{self.model}: {len(self.rows)} stochastic layers" + (f" ({', '.join(kinds)})" if kinds else "")
        return title if self.input_noise is None else f"{title}; noise on the input, σ = {self.input_noise:g}"

    def _told(self) -> list[str]:
        """What was left alone, and what was found by more than a call, in lines."""
        found = [LeftAlone(row.site, row.activation, row.reason) for row in self.rows if row.reason]
        return [*grouped_lines("found by more than a call:", found), *left_lines(self.left)]

    def _lines(self) -> list[tuple[str, ...]]:
        return [
            (
                row.layer or "(root)",
                row.kind,
                row.activation,
                str(row.channels),
                str(row.channel_dim),
                f"{row.gamma:.3g}",
                f"{row.sigma:.3g}",
                str(row.batches),
            )
            for row in self.rows
        ]


def summary(model: nn.Module) -> Summary:
    """The stochastic layers of `model` with their sites, activations, γ and σ, and what was left alone and why.

    Example:
        >>> stocnoise.summary(student).rows[0].activation
        'relu'
    """
    model = unwrap_compiled(model)
    conversion = None if student_in(model) is None else conversion_of(model)
    sites = dict(conversion.layers) if conversion else {}
    layers = dict(stochastic_layers(model))
    order = [path for path in sites if path in layers] + [path for path in layers if path not in sites]
    rows = tuple(_row(path, layers[path], sites.get(path)) for path in order)
    on_input = [module.sigma for module in model.modules() if isinstance(module, InputNoise)]
    return Summary(type(model).__name__, rows, conversion.left if conversion else (), on_input[0] if on_input else None)


def table(header: Sequence[str], lines: Iterable[Sequence[str]], right: int) -> str:
    """Columns of text under a header; those from number `right` on are flushed right."""
    cells = [header, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    rule = "  ".join("─" * width for width in widths)
    text = [
        "  ".join(
            cell.rjust(width) if column >= right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([text[0], rule, *text[1:]])


def _row(path: str, layer: StochasticActivation, site: Site | None) -> Row:
    return Row(
        layer=path,
        kind=site.kind if site else "",
        site=site.name if site else "",
        activation=site.activation if site else str(layer.activation),
        channels=layer.num_channels,
        channel_dim=layer.channel_dim,
        gamma=layer.gamma.item(),
        sigma=layer.sigma.mean().item(),
        batches=int(layer.num_batches_tracked.item()),
        reason=site.reason if site else "",
    )


def _kinds(rows: Iterable[Row]) -> list[str]:
    return sorted({row.kind for row in rows if row.kind})


def left_lines(left: Sequence[LeftAlone]) -> list[str]:
    """What was left alone, a line for each activation and reason."""
    return grouped_lines("left alone:", left)


def grouped_lines(title: str, items: Sequence[LeftAlone]) -> list[str]:
    """A line for each activation and reason, with the first of their names."""
    if not items:
        return []
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        groups.setdefault((item.activation, item.reason), []).append(item.name or "(root)")
    lines = ["", title]
    for (activation, reason), names in groups.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"  {len(names)} × {activation} ({reason}): {shown}")
    return lines
