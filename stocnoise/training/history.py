"""What a run did, epoch by epoch, as data and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, overload

from torch import nn

from stocnoise.checks import check_all, check_path, check_several, optional
from stocnoise.markup import html_table
from stocnoise.storage import save_figure
from stocnoise.training.best import Best, Kept, kept


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch. Accuracies are fractions; None where nothing measured them."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean of the objective over the epoch's training examples."""
    accuracy: float | None
    """Of training examples as they are, in the passes that the objective made."""
    robust_accuracy: float | None
    """Of training examples under the training attack."""
    val_accuracy: float | None
    val_robust_accuracy: float | None
    gamma: float | None
    """γ of this epoch, the mean over layers; None without stochastic layers."""
    sigma: dict[str, float] = field(default_factory=dict)
    """Each stochastic layer's σ after the epoch, the mean over its channels."""
    lr: float = 0.0
    """Learning rate of the first parameter group at the end of the epoch, before a schedule of epochs moves it."""
    seconds: float = 0.0
    eps: float | None = None
    """ε of the training attack at the end of the epoch, the largest of a budget for each feature; None without an
    `EpsSchedule`."""
    guard_accuracy: float | None = None
    """Robust accuracy on the batch of `finetune(..., guard=…)`."""
    collapsed: bool = False
    """Whether the guard took that for a collapse: the student, the optimiser and σ went back to before the epoch."""
    unperturbed: int = 0
    """Optimiser steps that were taken without AWP, whose gradient was not finite."""


_NEEDED = {figure.name for figure in fields(Epoch) if figure.default is MISSING and figure.default_factory is MISSING}


class History(Sequence[Epoch]):
    """The epochs of a run in order: `history[-1].accuracy`, `len(history)`, `history.plot("run.png")`.

    Example:
        >>> history = stocnoise.finetune(student, loader, epochs=2, progress=False)
        >>> history[-1].epoch
        2
        >>> figure = history.plot("run.png")
    """

    def __init__(self, epochs: Sequence[Epoch] = ()) -> None:
        self.replace(epochs)
        self.averaged: nn.Module | None = None
        """With `finetune(..., ema=…)`, the student with averaged weights."""
        self.kept: Kept | None = None
        """What `best` gives back."""

    @property
    def best(self) -> Best | None:
        """The epoch with the highest robust accuracy on `val_loader`; of equals the most accurate, then the earliest.

        `history.best.restore(student)` makes the student what it was then; `.epoch`, `.robust_accuracy`, `.accuracy`
        and `.state_dict` say the rest. It is the trained student itself, also with `ema`, whose averages are not
        measured. In checkpoints, so a resumed run has it; on the CPU. None without `val_loader`. Epochs that a guard
        has undone do not count: what was measured then is gone.
        """
        lasting = [epoch for epoch in self if not epoch.collapsed]
        measured = [(e, e.val_robust_accuracy) for e in lasting if e.val_robust_accuracy is not None]
        if not measured:
            return None
        epoch, robust = max(measured, key=lambda pair: (pair[1], pair[0].val_accuracy or 0.0))  # the first of equals
        own = self.kept if self.kept is not None and self.kept.epoch == epoch.epoch else None
        return Best(epoch.epoch, robust, epoch.val_accuracy or 0.0, own)

    def keep_best(self, model: nn.Module) -> None:
        """Keep the weights of the newest epoch, if it is the best; every process calls it."""
        if self.best is not None and self._is_best(self[-1]):
            self.kept = None  # before the next one is copied
            self.kept = kept(self[-1].epoch, model)

    def _is_best(self, epoch: Epoch) -> bool:
        return self.best is not None and self.best.epoch == epoch.epoch

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Epoch]: ...
    def __getitem__(self, index: int | slice) -> Epoch | list[Epoch]:
        return self._epochs[index]

    def __len__(self) -> int:
        return len(self._epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self._epochs)

    def append(self, epoch: Epoch) -> None:
        """Add the figures of one more epoch."""
        check_all("epoch", [epoch], Epoch, "the figures of one, a stocnoise.training.Epoch")
        self._epochs.append(epoch)

    def replace(self, epochs: Sequence[Epoch]) -> None:
        """Hold these epochs instead."""
        check_all("epochs", epochs, Epoch, "figures of epochs, each a stocnoise.training.Epoch")
        self._epochs = list(epochs)

    def to_dict(self) -> list[dict[str, Any]]:
        """One dict an epoch, plain data; `best` marks the best one."""
        return [asdict(epoch) | {"best": self._is_best(epoch)} for epoch in self]

    @classmethod
    def from_dict(cls, data: list[dict[str, Any]]) -> History:
        """What `to_dict` gave; the weights of the best epoch are not in it."""
        check_several("data", data, "epochs")
        known = {figure.name for figure in fields(Epoch)} | {"best"}
        for figures in data:
            if not isinstance(figures, Mapping) or not _NEEDED <= set(figures) <= known:
                raise ValueError(f"data must be what History.to_dict gives, a dict for each epoch, not {data!r}")
        return cls([Epoch(**{name: value for name, value in figures.items() if name != "best"}) for figures in data])

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        warm = any(epoch.eps is not None for epoch in self)
        head = ["epoch", "loss", "accuracy %", "robust %", "val %", "val robust %", "γ", "mean σ", "lr", "s"]
        rows = [_cells(epoch) for epoch in self]
        for epoch, row in zip(self, rows, strict=True):
            row[0] += " (best)" if self._is_best(epoch) else ""
            row += [_figure(epoch.eps)] if warm else []
        return html_table(head + ["ε"] * warm, rows, title=f"{len(self)} epochs")

    def plot(self, path: str | None = None) -> Any:
        """Draw accuracy, robust accuracy, γ, ε if it grew, and σ of each layer over the epochs; needs matplotlib.

        A star marks the best epoch.

        Args:
            path: also save the picture there.

        Returns:
            The matplotlib figure.
        """
        optional(check_path, "path", path)
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(12, 3.6), layout="constrained")
        accuracy, gamma, sigma = figure.subplots(1, 3)
        for name in ("accuracy", "robust_accuracy", "val_accuracy", "val_robust_accuracy", "guard_accuracy"):
            points = [(e.epoch, getattr(e, name)) for e in self if getattr(e, name) is not None]
            if points:
                accuracy.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        if (best := self.best) is not None:
            place = [best.epoch], [best.robust_accuracy]
            accuracy.scatter(*place, marker="*", color="black", zorder=3, label=f"best, epoch {best.epoch}")
        if accuracy.lines:
            accuracy.legend()
        accuracy.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
        noisy = [e for e in self if e.gamma is not None]
        gamma.plot([e.epoch for e in noisy], [e.gamma for e in noisy], marker=".", drawstyle="steps-mid")
        gamma.set(xlabel="epoch", ylabel="γ")
        if warm := [e for e in self if e.eps is not None]:
            eps = gamma.twinx()
            eps.plot([e.epoch for e in warm], [e.eps for e in warm], marker=".", color="C1")
            eps.set_ylim(bottom=0)
            eps.set_ylabel("ε after the epoch", color="C1")
        layers = list(self[-1].sigma) if len(self) else []
        for i, layer in enumerate(layers):
            shade = str(0.75 * (1 - i / len(layers)))  # light to dark with depth: names would not fit
            epochs = [e for e in self if layer in e.sigma]
            label = layer if i in (0, len(layers) - 1) else None
            sigma.plot([e.epoch for e in epochs], [e.sigma[layer] for e in epochs], color=shade, label=label)
        if layers:
            sigma.legend()
        sigma.set(xlabel="epoch", ylabel="σ of each layer (channel mean)")
        for axes in figure.axes:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if path is not None:
            save_figure(figure, path)
        return figure


def _cells(epoch: Epoch) -> list[str]:
    shares = (epoch.accuracy, epoch.robust_accuracy, epoch.val_accuracy, epoch.val_robust_accuracy)
    sigma = sum(epoch.sigma.values()) / len(epoch.sigma) if epoch.sigma else None
    return [
        str(epoch.epoch),
        f"{epoch.loss:.4g}",
        *("–" if share is None else f"{100 * share:.1f}" for share in shares),
        *map(_figure, (epoch.gamma, sigma)),
        f"{epoch.lr:.3g}",
        f"{epoch.seconds:.1f}",
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
