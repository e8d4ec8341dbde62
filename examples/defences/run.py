"""One defence, trained and measured; what is finished is read, what was interrupted goes on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

import stocnoise
from examples.defences.defence import Defence
from examples.paper import train
from examples.paper.images import Split, batches
from examples.paper.scale import Scale

DRAWS = 32


def trained(defence: Defence, scale: Scale, split: Split, seed: int, work: Path) -> nn.Module:
    """From the scale's teacher, for the epochs and with the attack that every defence of the scale has."""
    teacher = train.teacher_of(scale, split, seed, work)  # what `build` draws is seeded with it
    model = defence.build(copy.deepcopy(teacher), split.test.everything()[0][:2].to(next(teacher.parameters()).device))
    settings = scale.training
    attack = stocnoise.PGD(eps=settings.eps, steps=settings.steps, step_size=settings.step_size)
    home = train.folder(work, scale, seed, f"defence-{defence.name}")
    return train.fine_tuned(model, scale, split, seed, home, **{"attack": attack} | defence.training(scale))


def measured(defence: Defence, scale: Scale, split: Split, seed: int, images: int, work: Path) -> dict[str, Any]:
    """The paper's way of attacking, and `strongest`, at the ε of training: one line of the results."""
    model = trained(defence, scale, split, seed, work)
    teacher = train.teacher_of(scale, split, seed, work)
    data = batches(split.test, images, 100)
    eps = scale.training.eps
    home = train.folder(work, scale, seed, f"defence-{defence.name}")

    def evaluate(name: str, attack: Any, **more: Any) -> stocnoise.Report:
        return stocnoise.evaluate(
            model,
            data,
            attack,
            eps,
            draws=DRAWS,
            checks=False,
            progress=False,
            seed=seed,
            path=home / f"{name}-{images}.json",
            resume=True,
            **more,
        )

    claimed = evaluate("claimed", defence.attack(model, eps))
    strongest = evaluate("strongest", "strongest-1", transfer_from=teacher)
    (asked,), worst = claimed.entries, strongest["strongest-1", eps]
    return {
        "defence": defence.name,
        "title": defence.title,
        "source": defence.source,
        "seed": seed,
        "eps": eps,
        "images": strongest.settings["images"],
        "draws": strongest.settings["draws"],
        "clean": _rate(strongest.clean.accuracy),
        "claimed": {"how": defence.claimed, "attack": asked.settings, "robust": _rate(asked.robust_accuracy)},
        "strongest": {
            "attack": worst.settings,
            "robust": _rate(worst.robust_accuracy),
            "converged": worst.converged,
            "gradients": round(worst.gradients),
        },
        "versions": strongest.settings["versions"],
    }


def _rate(rate: tuple[float, float, float]) -> list[float]:
    """[value, low, high]."""
    return [round(each, 4) for each in rate]
