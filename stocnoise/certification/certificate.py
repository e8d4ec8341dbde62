"""The result of `certify`: figures, a table, a curve, a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stocnoise.certification.curve import plot_certificates
from stocnoise.certification.page import page
from stocnoise.certification.record import Record, Row
from stocnoise.checks import check_number, check_path
from stocnoise.evaluation.rates import Rate, wilson
from stocnoise.evaluation.table import percent, table
from stocnoise.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAD = ["L2 radius", "certified accuracy %"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """A class and an L2 radius for each of N inputs. `print(certificate)` is a table.

    With probability 1 − α or more over the draws, for each input by itself: where an input was not abstained from, the
    most probable class of the student under its noise is `predicted` for every input closer than its radius. That is a
    promise of the smoothed classifier, the class of most draws, not of a single draw.

    Example:
        >>> smoothed = stocnoise.with_input_noise(model, sigma=0.25).eval()
        >>> certificate = stocnoise.certify(smoothed, loader, n=100, progress=False)
        >>> certificate.save("certificate.json")
        >>> stocnoise.Certificate.load("certificate.json").accuracy(0.0) == certificate.accuracy(0.0)
        True
    """

    record: Record

    @property
    def model(self) -> str:
        return self.record.model

    @property
    def settings(self) -> dict[str, Any]:
        """σ, α, n and the rest that a reader needs to run it again."""
        return dict(self.record.settings)

    @property
    def warnings(self) -> list[str]:
        return list(self.record.warnings)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.record.rows

    @property
    def predicted(self) -> Tensor:
        """(N,) int64, the class, −1 where it abstained."""
        return torch.tensor([row.predicted for row in self.rows], dtype=torch.int64)

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return torch.tensor([row.label for row in self.rows], dtype=torch.int64)

    @property
    def radii(self) -> Tensor:
        """(N,) float64, L2 in units of the input; 0 where it abstained."""
        return torch.tensor([row.radius for row in self.rows], dtype=torch.float64)

    @property
    def draws(self) -> Tensor:
        """(N,) int64, draws that the bound rests on, without the n0 that chose the class."""
        return torch.tensor([row.draws for row in self.rows], dtype=torch.int64)

    @property
    def abstained(self) -> float:
        """The share of inputs without an answer."""
        return (self.predicted < 0).double().mean().item()

    @property
    def right(self) -> Tensor:
        """(N,) bool, whether the class is the label."""
        return self.predicted == self.labels

    def accuracy(self, r: float = 0.0) -> float:
        """Certified accuracy: the share of inputs with the right class and a radius of at least `r`."""
        check_number("r", r)
        return (self.right & (self.radii >= r)).double().mean().item()

    @property
    def average_radius(self) -> float:
        """The mean of the radii, 0 where the class is wrong or it abstained (ACR)."""
        return (self.radii * self.right).mean().item()

    def rate(self, r: float) -> Rate:
        """`accuracy(r)` with a 95 % interval over inputs."""
        return wilson(self.accuracy(r), len(self.rows))

    def curve(self) -> list[tuple[float, float]]:
        """(radius, certified accuracy) at every radius where it falls, from 0."""
        radii, counts = self.radii[self.right].unique(return_counts=True)
        left = counts.flip(0).cumsum(0).flip(0).double() / len(self.rows)
        return [(0.0, self.accuracy()), *zip(radii.tolist(), left.tolist(), strict=True)]

    def asked_radii(self) -> list[float]:
        """The radii of the table: every σ/2 that any input reaches, or the one that was asked for."""
        if self.settings["at"] is not None:
            return [self.settings["at"]]
        step, largest = self.settings["sigma"] / 2, self.radii.max().item()
        return [i * step for i in range(int(largest / step) + 1)]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Certified accuracy against the radius; with `path` also saved. Needs matplotlib."""
        return plot_certificates([self], path)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one page with the figures and the curve, which needs nothing else."""
        check_path("path", path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            told = page(
                self.model, " · ".join(self._summary()), self.warnings, _HEAD, self._rows(), self._terms(), self.curve()
            )
            temporary.write_text(told, encoding="utf-8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; a reader never sees half of it."""
        check_path("path", path)
        self.record.write(Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """What `save`, or `certify` with a `path`, wrote.

        Raises:
            FileFormatError: it is something else.
        """
        check_path("path", path)
        return cls(Record.read(Path(path)))

    def _summary(self) -> list[str]:
        return [
            f"{len(self.rows)} inputs, noise on the input σ = {self.settings['sigma']:g}",
            f"average certified radius {self.average_radius:.3f}, abstained {100 * self.abstained:.1f} %",
        ]

    def _rows(self) -> list[list[str]]:
        return [[f"{r:.4g}", percent(self.rate(r))] for r in self.asked_radii()]

    def _terms(self) -> str:
        settings = self.settings
        at = "" if settings["at"] is None else f", stopped when it is known whether {settings['at']:g} is reached"
        return (
            f"Class by {settings['n0']} draws, bound by up to {settings['n']} (mean "
            f"{self.draws.double().mean():.0f}){at}; each "
            f"certificate holds with probability {1 - settings['alpha']:g}. In brackets 95 % over inputs."
        )

    def __str__(self) -> str:
        first, second = self._summary()
        warnings = [f"  ! {warning}" for warning in self.warnings]
        figures = table(_HEAD, self._rows())
        return "\n".join([f"{self.model}: {first}", second, "", *figures, "", self._terms(), *warnings])
