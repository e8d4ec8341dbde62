"""Curves of certified accuracy against the radius."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from stocnoise.checks import check_path, check_several, check_text, optional
from stocnoise.evaluation.plot import blank
from stocnoise.storage import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Certified(Protocol):
    """What a curve is drawn of: a `Certificate`."""

    @property
    def model(self) -> str: ...

    def curve(self) -> list[tuple[float, float]]: ...


def plot_certificates(
    certificates: Sequence[Certified], path: str | os.PathLike[str] | None = None, title: str = ""
) -> Figure:
    """Certified accuracy against the L2 radius, a step curve for each certificate. Needs matplotlib.

    Args:
        certificates: of `certify`; their models' names are the labels.
        path: save the picture there too.
        title: of the picture.

    Example:
        >>> smoothed = stocnoise.with_input_noise(model, sigma=0.25).eval()
        >>> certificate = stocnoise.certify(smoothed, loader, n=100, progress=False)
        >>> figure = stocnoise.plot_certificates([certificate], "certified.png")
    """
    check_several("certificates", certificates, "results of certify")
    if not certificates or not all(hasattr(certificate, "curve") for certificate in certificates):
        raise ValueError("certificates must be what certify returns, one or more")
    optional(check_path, "path", path)
    check_text("title", title)
    figure, axes = blank()
    for certificate in certificates:
        radii, accuracies = zip(*certificate.curve(), strict=True)
        # Up to and with a radius the accuracy is the one there; beyond the last, none is certified.
        axes.step([*radii, radii[-1]], [*(100 * a for a in accuracies), 0.0], where="pre", label=certificate.model)
    axes.set_xlabel("L2 radius")
    axes.set_ylabel("certified accuracy (%)")
    axes.set_ylim(-2, 102)
    axes.set_xlim(left=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    if path is not None:
        save_figure(figure, path)
    return figure
