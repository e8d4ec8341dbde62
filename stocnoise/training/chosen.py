"""What a run makes of an attack and a γ as they may be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stocnoise.attacks import PGD, Attack
from stocnoise.attacks.ball import PIXELS, Bounds
from stocnoise.attacks.registry import named_attack
from stocnoise.checks import check_number
from stocnoise.controls import stochastic_layers
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS
from stocnoise.training.callbacks import Callback
from stocnoise.training.gamma import GammaSchedule

DEFAULT_GAMMA = GammaSchedule(init=0.01, max=0.1, interval=1)


def unusual(task: Task, bounds: Bounds, mask: Tensor | None) -> dict[str, Any]:
    """What a run asks its attacks; what is usual stays unsaid, in attacks and so in checkpoints."""
    usual = {"task": MULTICLASS, "bounds": PIXELS, "mask": None}
    given = {"task": task, "bounds": bounds, "mask": mask}
    return {name: value for name, value in given.items() if value is not usual[name]}


def own_attack(choice: Attack | str, asked: Mapping[str, Any], name: str = "attack") -> Attack:
    """The attack of that name at its defaults, or the given one, asked what the run is asked where it does not say.

    Raises:
        ValueError: an unknown name, or settings of the run that do not fit the attack's.
        TypeError: it is neither.
    """
    if isinstance(choice, str):
        if choice == "transfer":
            raise ValueError(f"{name}='transfer' needs a model: {name}=stocnoise.attacks.Transfer(source=teacher)")
        choice = named_attack(choice, norm="inf", steps=PGD.steps, eot=PGD.eot)
    if not callable(choice) or isinstance(choice, type):
        raise TypeError(f"{name} must be a name, such as 'pgd', or an attack, such as stocnoise.PGD(), not {choice!r}")
    return choice.with_defaults(**asked) if isinstance(choice, Attack) else choice


def asked_as(attack: Attack, run: Attack) -> Attack:
    """`attack`, asked what the run's is asked where it does not say."""
    if not (isinstance(attack, Attack) and isinstance(run, Attack)):
        return attack
    return attack.with_defaults(task=run.task, output=run.output, bounds=run.bounds, mask=run.mask)


def own_schedule(
    gamma: GammaSchedule | float | None, student: nn.Module, epochs: int, callbacks: Sequence[Callback]
) -> GammaSchedule | None:
    """The schedule of this run, a copy that knows T, so that the caller's stays as it is; a number is a constant γ."""
    if gamma is not None and not isinstance(gamma, GammaSchedule):
        check_number("gamma", gamma)
        gamma = GammaSchedule(gamma, gamma)
    by = next((callback for callback in callbacks if callback.sets_gamma), None)
    if gamma is DEFAULT_GAMMA and (by is not None or not any(stochastic_layers(student))):
        return None
    if gamma is None:
        return None
    if by is not None:
        raise ValueError(f"{type(by).__name__} sets gamma itself: leave out gamma")
    if gamma.epochs not in (None, epochs):
        raise ValueError(f"{gamma!r} is for {gamma.epochs} epochs, the run for {epochs}")
    return GammaSchedule(gamma.init, gamma.max, gamma.interval, epochs)
