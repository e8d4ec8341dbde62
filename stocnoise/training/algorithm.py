"""What is trained: the first of the groups of `settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stocnoise.attacks import Attack
from stocnoise.attacks.ball import largest
from stocnoise.checks import check_whole
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS
from stocnoise.training.eps import EpsSchedule
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.guard import Guard
from stocnoise.training.step import AttackTarget, Objective, check_attack_target
from stocnoise.training.wording import UNTOLD, told


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Algorithm 1: T epochs of an objective, the attack within it, how its ε begins, and γ."""

    epochs: int
    objective: Objective
    attack: Attack
    attack_target: AttackTarget
    gamma: GammaSchedule | None
    val_attack: Attack = field(metadata=UNTOLD)
    task: Task = MULTICLASS
    eps: EpsSchedule | None = None
    guard: Guard | None = None

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs)
        if self.eps is not None:
            self._check_eps(self.eps)
        check_attack_target(self.attack_target)
        if not isinstance(self.guard, Guard | None):
            raise TypeError(f"guard must be a stocnoise.Guard, such as Guard((images, labels)), not {self.guard!r}")
        if getattr(self.val_attack, "targeted", False):
            raise ValueError(
                "val_attack (default attack) is targeted, and leads to the answers in y, which are the right ones: "
                "evaluate measures targeted attacks"
            )

    def _check_eps(self, schedule: EpsSchedule) -> None:
        if not isinstance(schedule, EpsSchedule):
            raise TypeError(
                f"eps must be a stocnoise.EpsSchedule, not {schedule!r}: ε itself is the attack's, attack=PGD(eps=…)"
            )
        schedule(self.attack, 0)
        if schedule.epochs > self.epochs:
            raise ValueError(f"{schedule} would never reach the attack's eps in a run of {self.epochs} epochs")

    def attack_after(self, epochs: float) -> Attack:
        """The attack of training once that many epochs are over."""
        return self.attack if self.eps is None else self.eps(self.attack, epochs)

    def eps_after(self, epochs: float) -> float | None:
        """Its ε, of a budget for each feature the largest; None where no schedule moves it."""
        return None if self.eps is None else largest(self.eps(self.attack, epochs).eps)

    @property
    def schedules(self) -> dict[str, GammaSchedule | None]:
        """What is stepped after every epoch, by the name under which a checkpoint keeps it."""
        return {"gamma": self.gamma}

    def words(self) -> dict[str, Any]:
        return told(self) | {"gamma": repr(self.gamma)}
