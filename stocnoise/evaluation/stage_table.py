"""An attack in stages as text."""

from __future__ import annotations

from stocnoise.evaluation.measured import Entry
from stocnoise.evaluation.table import epsilon, percent, table

HEAD = ["stage", "attacks", "budget", "images", "robust %", "taken", "gradients", "s"]


def stage_rows(entry: Entry) -> list[list[str]]:
    """A row for each stage of an attack: what it took and cost."""
    return [
        [
            str(number),
            ", ".join(f"{each.attack} {each.won}" for each in stage.candidates) or "–",
            f"{stage.steps} × {stage.tries}",
            str(stage.images),
            f"{100 * stage.robust_accuracy.value:.1f}",
            f"{100 * stage.taken:.1f}",
            f"{stage.gradients:.0f}",
            f"{stage.seconds:.1f}",
        ]
        for number, stage in enumerate(entry.stages, start=1)
    ]


def stage_title(entry: Entry) -> str:
    return (
        f"{entry.attack} at ε = {epsilon(entry.eps, entry.median_l2)}, stage by stage; beside each attack the images "
        "that it was the best so far on"
    )


def stage_lines(entry: Entry) -> list[str]:
    """An attack in stages: what each took and cost, and whether the last one ended it."""
    return [f"{stage_title(entry)}:", *table(HEAD, stage_rows(entry)), verdict(entry), ""]


def verdict(entry: Entry) -> str:
    """Whether an attack in stages has come to its end, in words."""
    last = entry.stages[-1]
    bound = ""
    if "margin_bound" in entry.more:
        bound = (
            f" By the margin bound it is at least {100 * entry.more['margin_bound']:.1f} %, as far as these attacks go."
        )
    if entry.converged is None:
        return "One stage alone cannot tell whether a stronger attack takes more." + bound
    if entry.converged:
        return f"Converged: the last stage took {100 * max(last.taken, 0.0):.1f} points." + bound
    return (
        f"Not converged: the last stage still took {100 * last.taken:.1f} points. The robust accuracy is at most "
        f"{percent(entry.robust_accuracy)}." + bound
    )
