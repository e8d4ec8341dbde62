"""How strong the noise is in each epoch: Algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stocnoise.checks import check_model, check_number, check_whole
from stocnoise.controls import set_gamma


class GammaSchedule:
    """γ starts at `init`; every r = `interval` epochs it grows by k = r · (`max` − `init`) / T, T the number of epochs.

    In a loop of one's own, `step` after every epoch is all there is to do:

        schedule = stocnoise.GammaSchedule(init=0.01, max=0.1, epochs=10)
        for epoch in range(10):
            ...                      # train
            schedule.step(student)

    `convert(model, gamma=…)` gives the first epoch's γ (0.01 unless told); `schedule.apply(student)` sets it too.
    After the T epochs γ = `max` if r divides T, and γ stays there should more epochs follow.

    Args:
        init: γ of the first r epochs, at least 0.
        max: γ after T epochs; below `init` the noise shrinks.
        interval: r, the epochs between two changes.
        epochs: T. `finetune` fills it in; a loop of one's own gives it.

    Source: Tan, Elovici, Binder, ICPR 2020, Algorithm 1.

    Example:
        >>> schedule = stocnoise.GammaSchedule(init=0.01, max=0.1, epochs=10)
        >>> round(schedule.step(student), 3)
        0.019
    """

    def __init__(self, init: float = 0.01, max: float = 0.1, interval: int = 1, epochs: int | None = None) -> None:
        check_number("init", init)
        check_number("max", max)
        check_whole("interval", interval)
        if epochs is not None:
            check_whole("epochs", epochs)
        self.init = float(init)
        self.max = float(max)
        self.interval = interval
        self.epochs = epochs
        self.epoch = 0
        """Epochs that are over."""

    @property
    def value(self) -> float:
        """γ of the epoch that comes next."""
        if self.epoch == 0:
            return self.init
        if self.epochs is None:
            raise ValueError("the schedule must know how many epochs there will be: GammaSchedule(..., epochs=10)")
        grown = min(self.epoch, self.epochs) // self.interval * self.interval
        return self.init + grown * (self.max - self.init) / self.epochs

    def apply(self, student: nn.Module) -> float:
        """Set γ of every stochastic layer of `student` (wrapped or not) to `value`, and return it."""
        check_model("student", student)
        value = self.value
        set_gamma(student, value)
        return value

    def step(self, student: nn.Module) -> float:
        """An epoch is over: count it, set γ for the next one, and return it."""
        self.epoch += 1
        try:
            return self.apply(student)
        except (TypeError, ValueError):
            self.epoch -= 1
            raise

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, plain numbers."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. ValueError if that was another schedule."""
        settings = ("init", "max", "interval", "epochs")
        if not isinstance(state, Mapping) or not {*settings, "epoch"} <= set(state):
            raise ValueError(f"state must be what GammaSchedule.state_dict gives, not {state!r}")
        check_whole("state['epoch']", state["epoch"], least=0)
        if any(state[name] != vars(self)[name] for name in settings):
            theirs = ", ".join(f"{name}={state[name]}" for name in settings)
            raise ValueError(f"the state is of another schedule, GammaSchedule({theirs}), not of {self!r}")
        self.epoch = state["epoch"]

    def __repr__(self) -> str:
        return f"GammaSchedule(init={self.init:g}, max={self.max:g}, interval={self.interval}, epochs={self.epochs})"
