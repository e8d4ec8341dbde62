"""Every training of a scale: the defences of the paper's tables, its ablations, and what they are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import stocnoise
from examples.paper.scale import Scale


@dataclass(frozen=True)
class Recipe:
    """One training: a `layer` (None: no noise), an objective, and what differs from the scale's settings."""

    name: str
    title: str
    objective: str
    epochs: int
    eps: float
    lr: float
    layer: type[stocnoise.StochasticActivation] | None = None
    gamma: float | None = None
    """γ_max."""
    from_teacher: bool = True
    watched: bool = False
    """Whether held-out images are attacked after each epoch."""
    plane: bool = False
    """Whether the decision boundary is recorded."""
    means: str | None = None
    """What helps beside the noise, of `MEANS`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "objective": self.objective,
            "layer": None if self.layer is None else self.layer.__name__,
            "gamma": self.gamma,
            "eps": self.eps,
            "lr": self.lr,
            "epochs": self.epochs,
            "from_teacher": self.from_teacher,
            **({} if self.means is None else {"means": self.means}),
        }


TITLES = {"none": "None", "at": "AT", "trades": "TRADES", "l2p": "L2P", "anis": "ANIS²"}
"""The paper's five defences, as its tables call them."""

VARIANTS = {"anis": "original", "no-at": "without AT", "no-ema": "without EMA", "no-init": "without teacher"}
"""The paper's ablations."""

MEANS = {"awp": "AWP", "guided": "guided", "one-step": "one step", "averaged": "trained as an average"}
"""What moves the front elsewhere: adversarial weight perturbation, the teacher's logits as a target, attacks of one
step (N-FGSM), and, where there are draws, the loss of the mean probability of two."""

_FORWARD = 1 / 3
"""What a pass forward costs of one there and back."""

_CHANGES: dict[str, dict[str, Any]] = {
    "no-at": {"objective": "clean"},
    "no-ema": {"layer": stocnoise.StocFixed},
    "no-init": {"from_teacher": False},
}


def teacher(scale: Scale) -> Recipe:
    settings = scale.training
    return Recipe("teacher", "teacher", "clean", settings.teacher_epochs, settings.eps, settings.lr, from_teacher=False)


def defences(scale: Scale) -> dict[str, Recipe]:
    """The five of the tables, by name: from the same teacher, for the same number of epochs."""
    settings = scale.training
    plain = Recipe("none", TITLES["none"], "clean", settings.epochs, settings.eps, settings.lr)
    planes = bool(scale.studies.plane_epochs)
    return {
        recipe.name: recipe
        for recipe in (
            plain,
            replace(plain, name="at", title=TITLES["at"], objective="at", plane=planes),
            replace(plain, name="trades", title=TITLES["trades"], objective="trades"),
            replace(plain, name="l2p", title=TITLES["l2p"], objective="l2p", layer=stocnoise.StocL2P),
            student(scale, settings.gamma),
        )
    }


def asked(scale: Scale, defence: str) -> bool:
    """Whether a scale trains that one of `defences`: without the paper's tables those of the question alone."""
    return scale.studies.tables or defence in ("at", "trades", "anis")


def student(scale: Scale, gamma: float) -> Recipe:
    """The student whose γ grows to `gamma`; "anis" is the one of the tables."""
    settings = scale.training
    ours = gamma == settings.gamma
    return Recipe(
        name="anis" if ours else f"anis-{gamma:g}",
        title=TITLES["anis"] if ours else f"{TITLES['anis']} γ→{gamma:g}",
        objective="at",
        epochs=settings.epochs,
        eps=settings.eps,
        lr=settings.lr,
        layer=stocnoise.StocReLUEMA,
        gamma=gamma,
        plane=ours and bool(scale.studies.plane_epochs),
    )


def at_line(scale: Scale) -> dict[str, Recipe]:
    """Adversarial training at other ε, and without the teacher's weights."""
    at = replace(defences(scale)["at"], plane=False)
    found = [replace(at, name=f"at-{eps:.3g}", title=f"AT at ε = {eps:.3g}", eps=eps) for eps in scale.studies.at_eps]
    if scale.studies.from_scratch:
        found.append(replace(at, name="at-no-init", title=f"AT {VARIANTS['no-init']}", **_CHANGES["no-init"]))
    return {recipe.name: recipe for recipe in found}


def students(scale: Scale) -> dict[str, Recipe]:
    """Students of other γ_max, trained at another ε or from scratch, held against AT's front."""
    ours = student(scale, scale.training.gamma)
    found = [student(scale, gamma) for gamma in scale.studies.students]
    for eps in scale.studies.student_eps:
        name, title = f"anis-eps-{eps:.3g}", f"{ours.title} at ε = {eps:.3g}"
        found.append(replace(ours, name=name, title=title, eps=eps, plane=False))
    if scale.studies.from_scratch:
        found.append(_variant(ours, "no-init"))
    return {recipe.name: recipe for recipe in found}


def passes(scale: Scale, recipe: Recipe) -> float:
    """Passes there and back that each training image costs, in all epochs."""
    steps = scale.training.steps
    attack = {"one-step": 1, "averaged": 2 * (steps // 2)}.get(recipe.means or "", steps)
    step = {
        "clean": 1.0,
        "trades": attack + _FORWARD + 2,
        "l2p": attack + 2,
        "at": attack + {"awp": 2, "guided": 1 + _FORWARD, "averaged": 2}.get(recipe.means or "", 1),
    }[recipe.objective]
    return recipe.epochs * step


def helped(scale: Scale) -> dict[str, Recipe]:
    """AT and the tables' student with each of the scale's means, in as many epochs as cost what the plain ones do."""
    found = {}
    for plain in (defences(scale)[name] for name in ("at", "anis")):
        for means in scale.studies.means:
            if means == "averaged" and plain.layer is None:
                continue
            named = replace(plain, name=f"{plain.name}-{means}", title=f"{plain.title}, {MEANS[means]}", plane=False)
            recipe = replace(named, means=means)
            epochs = max(1, round(plain.epochs * passes(scale, plain) / passes(scale, recipe)))
            found[recipe.name] = replace(recipe, epochs=epochs)
    return found


def ablations(scale: Scale) -> dict[tuple[str, float], Recipe]:
    """By variant and γ_max; the original at the tables' γ_max is the student of the tables."""
    found = {}
    for gamma in scale.studies.gammas:
        original = student(scale, gamma)
        found["anis", gamma] = original
        found |= {(variant, gamma): _variant(original, variant) for variant in _CHANGES}
    return found


def _variant(original: Recipe, variant: str) -> Recipe:
    return replace(
        original,
        name=f"{variant}-{original.gamma:g}",
        title=f"{TITLES['anis']} {VARIANTS[variant]}, γ→{original.gamma:g}",
        plane=original.plane and variant == "no-at",
        **_CHANGES[variant],
    )


def compared(scale: Scale) -> dict[str, Recipe]:
    """Every recipe of the question that matters, those of AT's front first."""
    front = {"at": defences(scale)["at"], **at_line(scale), "teacher": teacher(scale)}
    return front | defences(scale) | helped(scale) | students(scale)


def long_runs(scale: Scale) -> dict[str, Recipe]:
    """AT and the student, trained for long, attacked on held-out images after each epoch."""
    epochs = scale.studies.long_epochs
    return {} if epochs is None else _both(scale, "long", f"{epochs} epochs", epochs=epochs, watched=True)


def learning_rates(scale: Scale) -> dict[str, Recipe]:
    """AT and the student at other learning rates."""
    found: dict[str, Recipe] = {}
    for lr in scale.studies.learning_rates:
        found |= _both(scale, f"lr-{lr:g}", f"learning rate {lr:g}", lr=lr)
    return found


def _both(scale: Scale, suffix: str, words: str, **change: Any) -> dict[str, Recipe]:
    """The tables' AT and student with a setting changed."""
    chosen = [defences(scale)[name] for name in ("at", "anis")]
    changed = [
        replace(recipe, name=f"{recipe.name}-{suffix}", title=f"{recipe.title}, {words}", plane=False, **change)
        for recipe in chosen
    ]
    return {recipe.name: recipe for recipe in changed}
