"""The pictures of a report, drawn from its results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from examples.paper import question, recipes
from examples.paper.results import Results
from examples.paper.scale import Scale


def draw(results: Results, scale: Scale, out: Path) -> dict[str, str]:
    """Save every picture that the results allow; returns file names by what they show."""
    pictures = {
        "question": _question(results, scale),
        "overfitting": _overfitting(results),
    }
    if scale.studies.tables:
        pictures |= {
            "white-box": _white_box(results, scale),
            "transfer": _transfer(results, scale),
            "ablation": _ablation(results, scale),
            "plane": _planes(results, scale),
        }
    names = {}
    for name, picture in pictures.items():
        if picture is not None:
            names[name] = f"{name}.png"
            picture.savefig(out / names[name], dpi=110)
    return names


def _figure(rows: int, columns: int, height: float = 2.9) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.5 * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _curves(axes: Axes, results: Results, kind: str, attack: str, eps: tuple[float, ...], norm: str = "inf") -> None:
    """ASR against ε for each defence, with 95 % bars."""
    for name, title in recipes.TITLES.items():
        found = [(e, figure) for e in eps if (figure := results.figure(name, kind, attack, e, norm)) is not None]
        if found:
            axes.errorbar(
                [e for e, _ in found],
                [f.value for _, f in found],
                yerr=[1.96 * f.error for _, f in found],
                marker=".",
                capsize=2,
                label=title,
            )
    axes.set(ylim=(-0.02, 1.02), xlabel=f"ε ({'L∞' if norm == 'inf' else 'L2'})")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)


def _white_box(results: Results, scale: Scale) -> Figure:
    figure, axes = _figure(2, 4)
    kinds = (("plain", "one draw, as in the paper"), ("expectation", f"EOT-{scale.attacks.eot}"))
    for row, (kind, how) in enumerate(kinds):
        panels = [("bim", "BIM", "inf"), ("mim", "MIM", "inf"), ("cw", "CW", "l2"), ("worst case", "strongest", "inf")]
        for column, (attack, title, norm) in enumerate(panels):
            eps = scale.attacks.l2 if norm == "l2" else scale.attacks.eps
            _curves(axes[row, column], results, kind, attack, eps, norm)
            axes[row, column].set_title(f"{title}, {how}", fontsize=9)
        axes[row, 0].set_ylabel("ASR")
    axes[0, 3].set_title("worst of these and transfers", fontsize=9)
    axes[0, 0].legend(fontsize=7)
    return figure


def _transfer(results: Results, scale: Scale) -> Figure:
    figure, axes = _figure(1, 3)
    panels = [("plain", "transfer-bim", "BIM on the teacher"), ("plain", "transfer-mim", "MIM on the teacher")]
    for column, (kind, attack, title) in enumerate([*panels, ("expectation", "worst case", "strongest white box")]):
        _curves(axes[0, column], results, kind, attack, scale.attacks.eps)
        axes[0, column].set_title(title, fontsize=9)
    axes[0, 0].set_ylabel("ASR")
    axes[0, 0].legend(fontsize=7)
    return figure


def _question(results: Results, scale: Scale) -> Figure | None:
    """AT's front and what is held against it, as one draw, average and mixture; the table has the other predictors."""
    line, held = question.rows(results, scale)
    if not line:
        return None
    marks = {question.NO_NOISE: "o", "one draw": "o", "averaged": "s", question.MIXED: "D"}
    held = [row for row in held if row.predictor in marks]
    figure, ((axes,),) = _figure(1, 1)
    figure.set_size_inches(7, 5 + 0.18 * len(held) / 2)
    accuracy, robust = (torch.tensor([[getattr(row, of) for row in line]]) for of in ("clean", "robust"))
    along = torch.linspace(min(row.clean for row in [*line, *held]), accuracy.max().item(), 200)
    front = question.front(accuracy.expand(200, -1), robust.expand(200, -1), along)
    axes.plot(along, front, color="black", label="AT's front")
    palette = colormaps["tab20"]
    colours: dict[str, Any] = {}
    for row in [*line, *held]:
        colour = "black" if row.gap is None else colours.setdefault(row.title, palette(len(colours) % 20))
        low, high = row.robust_interval
        axes.errorbar(
            row.clean,
            row.robust,
            yerr=[[row.robust - low], [high - row.robust]],
            color=colour,
            marker=marks[row.predictor],
            markersize=5,
            elinewidth=0.7,
            linestyle="none",
            label=None if row.gap is None else f"{row.title}, {row.predictor}",
        )
    # Of the line, what is far below all that is held against it (AT at small ε, the teacher) would press the rest flat.
    lowest = min((row.robust_interval[0] for row in held), default=0.0)
    axes.set_ylim(bottom=max(-0.02, lowest - 0.05))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set(xlabel="clean accuracy", ylabel=f"robust accuracy at ε = {scale.training.eps:.3g}, strongest attack")
    figure.legend(fontsize=7, ncols=2, loc="outside lower center")
    axes.grid(alpha=0.3)
    return figure


def _ablation(results: Results, scale: Scale) -> Figure | None:
    table = recipes.ablations(scale)
    if not any(results.of(recipe.name, "ablation") for recipe in table.values()):
        return None
    figure, axes = _figure(3, len(recipes.VARIANTS), 2.5)
    attacks = [("PGD", "PGD, one draw"), ("PGD, EOT", f"PGD, EOT-{scale.attacks.eot}"), ("worst case", "strongest")]
    for row, (attack, how) in enumerate(attacks):
        for column, (variant, title) in enumerate(recipes.VARIANTS.items()):
            points = list(_ablation_points(results, scale, variant, attack))
            panel = axes[row, column]
            gammas = [gamma for gamma, _, _ in points]
            panel.plot(gammas, [clean for _, clean, _ in points], "x-", label="accuracy")
            panel.plot(gammas, [asr for _, _, asr in points], ".-", label="ASR")
            panel.plot(gammas, [max(clean - asr, 0) for _, clean, asr in points], "+-", label="max(ACC − ASR, 0)")
            panel.set_xscale("log")
            panel.set(ylim=(-0.02, 1.02), title=f"{title}; {how}")
            panel.title.set_fontsize(9)
            panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("γ_max")
    axes[0, 0].legend(fontsize=7)
    return figure


def _ablation_points(results: Results, scale: Scale, variant: str, attack: str) -> Iterator[tuple[float, float, float]]:
    for (name, gamma), recipe in sorted(recipes.ablations(scale).items(), key=lambda item: item[0][1]):
        clean = results.clean(recipe.name, "ablation")
        asr = results.figure(recipe.name, "ablation", attack, scale.training.eps)
        if name == variant and clean is not None and asr is not None:
            yield gamma, clean.value, asr.value


def _planes(results: Results, scale: Scale) -> Figure | None:
    wanted = [("at", "AT"), ("anis", "ANIS²"), (f"no-at-{scale.training.gamma:g}", "ANIS² without AT")]
    found = [
        (title, line["plane"])
        for name, title in wanted
        for line in results.of(name, "training")
        if line.get("plane") is not None
    ]
    if not found:
        return None
    epochs = list(found[0][1]["maps"])
    figure, axes = _figure(len(found), len(epochs), 2.6)
    figure.set_size_inches(2.6 * len(epochs), 2.6 * len(found))
    colours = ListedColormap([*(f"C{i}" for i in range(10))])
    for row, (title, plane) in enumerate(found):
        for column, epoch in enumerate(epochs):
            panel = axes[row, column]
            classes = [[value % 10 for value in line] for line in plane["maps"][epoch]]
            panel.imshow(classes, origin="lower", cmap=colours, vmin=-0.5, vmax=9.5, alpha=0.6)
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{title}, epoch {epoch}", fontsize=9)
            for (x, y), label in zip(plane["places"], plane["labels"], strict=True):
                panel.plot(x, y, "o", color=f"C{label % 10}", markeredgecolor="black", markersize=6)
    return figure


def _overfitting(results: Results) -> Figure | None:
    runs = [(title, results.of(f"{name}-long", "training")) for name, title in (("at", "AT"), ("anis", "ANIS²"))]
    if not all(lines for _, lines in runs):
        return None
    figure, ((axes,),) = _figure(1, 1, 3.2)
    figure.set_size_inches(6, 3.4)
    for i, (title, (line, *_)) in enumerate(runs):
        epochs = [each["epoch"] for each in line["history"]]
        axes.plot(
            epochs, [e["robust_accuracy"] for e in line["history"]], ":", color=f"C{i}", label=f"{title}, training"
        )
        held = [e["val_robust_accuracy"] for e in line["history"]]
        axes.plot(epochs, held, color=f"C{i}", label=f"{title}, held out")
    axes.set(xlabel="epoch", ylabel="robust accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure
