"""The optimiser and learning-rate schedule of a run, and what weight decay must leave alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import nn

from stocnoise.checks import check_choice, check_model, check_number, optional
from stocnoise.controls import stochastic_layers
from stocnoise.training.history import Epoch


class Scheduler(Protocol):
    """A learning-rate schedule, as PyTorch's and timm's are."""

    def step(self, *args: Any, **kwargs: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


OptimizerChoice = torch.optim.Optimizer | Callable[[Iterable[Any]], torch.optim.Optimizer] | None
SchedulerChoice = Scheduler | Callable[[torch.optim.Optimizer, int], Scheduler] | None
SchedulerStep = Literal["step", "epoch"]

LR = 0.05
WEIGHT_DECAY = 5e-4


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters of `model` for an optimiser: decayed, except those that are the scale of a noise.

    σ and γ of most layers are buffers, which no optimiser sees; a learned σ (`StocL2P`) is a parameter, and decay would
    pull the noise to zero.

    Example:
        >>> optimizer = torch.optim.AdamW(stocnoise.parameter_groups(student, weight_decay=0.05), lr=1e-3)
    """
    check_model("model", model)
    check_number("weight_decay", weight_decay)
    noise = _scales_of_noise(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in noise], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in noise], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _scales_of_noise(model: nn.Module) -> set[int]:
    return {id(p) for _, layer in stochastic_layers(model) for p in layer.parameters(recurse=False)}


def make_optimizer(
    model: nn.Module, choice: OptimizerChoice, lr: float | None, weight_decay: float | None
) -> torch.optim.Optimizer:
    """The given optimiser, one made by the given factory from `parameter_groups`, or SGD with Nesterov momentum 0.9.

    `lr` and `weight_decay` are in the groups that the factory gets; None leaves the learning rate to it.

    Raises:
        ValueError: nothing to train, or the given optimiser trains something else, has no use for `lr` or
            `weight_decay`, decays the scale of a noise, or steps by closures.
    """
    groups = parameter_groups(model, WEIGHT_DECAY if weight_decay is None else weight_decay)
    if not groups:
        raise ValueError("the model has no parameter with requires_grad=True: there is nothing to train")
    if choice is None:
        return torch.optim.SGD(groups, lr=LR if lr is None else lr, momentum=0.9, nesterov=True)
    asked = {name: value for name, value in (("lr", lr), ("weight_decay", weight_decay)) if value is not None}
    if isinstance(choice, torch.optim.Optimizer):
        if asked:
            raise ValueError(
                f"{' and '.join(asked)} cannot reach an optimizer that is made already: give them to it, or pass its "
                "class"
            )
        optimizer = choice
    else:
        if lr is not None:
            groups = [group | {"lr": lr} for group in groups]
        optimizer = _made(choice, groups)
        _check_arrived(optimizer, asked)
    _check_parameters(optimizer, model)
    _check_steps_alone(optimizer)
    return optimizer


def _made(choice: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optimizer = choice(groups) if callable(choice) else choice
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer, or a class or function that makes one of parameter groups, "
            f"not {optimizer!r}"
        )
    return optimizer


def _check_arrived(optimizer: torch.optim.Optimizer, asked: dict[str, float]) -> None:
    for name, value in asked.items():
        if name not in optimizer.defaults or all(group.get(name) != value for group in optimizer.param_groups):
            raise ValueError(
                f"{name}={value:g} did not reach the optimizer, a {type(optimizer).__name__}: leave {name} out, or let "
                "the function pass on the groups that it is given"
            )


def _check_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    noise, own = _scales_of_noise(model), {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer holds no parameter of the student: make it after the conversion, which copies the model"
        )
    for group in optimizer.param_groups:
        if group.get("weight_decay", 0) and any(id(p) in noise for p in group["params"]):
            raise ValueError(
                "the optimizer decays a learned sigma, which would pull the noise to zero: build it from "
                "stocnoise.parameter_groups(student, weight_decay)"
            )


def _check_steps_alone(optimizer: torch.optim.Optimizer) -> None:
    """A closure would make the pass again: with new noise, and σ and BatchNorm moved twice."""
    two_steps = hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step")  # SAM, and what comes of it
    if two_steps or not _takes(type(optimizer).step, optimizer):
        raise ValueError(
            f"{type(optimizer).__name__} computes the loss again within a step, by a closure, which finetune does not "
            "give: take an optimizer whose step() needs nothing, such as the one that it is built on, or a loop of "
            "your own with stocnoise.GammaSchedule"
        )


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call with these arguments alone is a call of it."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class RateSchedule:
    """A learning-rate schedule, and when it moves."""

    scheduler: Scheduler
    after_step: Callable[[int], None]
    """Told the optimiser steps that are over."""
    after_epoch: Callable[[Epoch], None]
    """Told the figures of the epoch that is over."""

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


def make_schedule(
    optimizer: torch.optim.Optimizer, choice: SchedulerChoice, steps: int, each: SchedulerStep | None = None
) -> RateSchedule:
    """The given schedule, one that the given function makes of (optimizer, steps), or one cycle up to the lr.

    Raises:
        ValueError: it is of another optimiser, or cannot move as it is told.
    """
    check_schedule(choice, each)
    if choice is None:
        # OneCycleLR would cycle the momentum too and refuse optimisers without one.
        rates = [group["lr"] for group in optimizer.param_groups]
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=int(steps) + 1, cycle_momentum=False)
        return RateSchedule(cycle, lambda step: cycle.step(), _stay)
    scheduler: Any = choice(optimizer, steps) if callable(choice) else choice
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "the scheduler is of another optimizer than the run's: pass that optimizer too, or a function of "
            "(optimizer, number of steps) that makes the scheduler"
        )
    if hasattr(scheduler, "step_update"):  # timm's, which know themselves whether they count steps or epochs
        _refuse(each, scheduler, ())
        return RateSchedule(
            scheduler,
            lambda step: scheduler.step_update(step),
            lambda figures: scheduler.step(figures.epoch, metric(figures, _mode(scheduler))),
        )
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        _refuse(each, scheduler, ("epoch",))
        return RateSchedule(scheduler, _stay, lambda figures: scheduler.step(metric(figures, scheduler.mode)))
    if not callable(getattr(scheduler, "step", None)) or not _takes(scheduler.step):
        raise ValueError(
            f"the step() of the scheduler, a {type(scheduler).__name__}, needs arguments that finetune does not know: "
            "step it in a callback, and pass scheduler=a constant schedule"
        )
    if each == "epoch":
        return RateSchedule(scheduler, _stay, lambda figures: scheduler.step())
    return RateSchedule(scheduler, lambda step: scheduler.step(), _stay)


def check_schedule(choice: SchedulerChoice, each: SchedulerStep | None) -> None:
    optional(check_choice, "scheduler_step", each, get_args(SchedulerStep))
    if choice is None and each is not None:
        raise ValueError("scheduler_step says when a scheduler of yours moves: without scheduler= leave it out")


def _refuse(each: SchedulerStep | None, scheduler: Any, agreed: tuple[str, ...]) -> None:
    if each is not None and each not in agreed:
        raise ValueError(f"a {type(scheduler).__name__} knows itself when it moves: leave out scheduler_step")


def _stay(_: Any) -> None:
    """This is not when it moves."""


def _mode(scheduler: Any) -> str:
    """Of timm's schedule: one that follows a figure has PyTorch's inside, the others follow none."""
    return getattr(getattr(scheduler, "lr_scheduler", None), "mode", "min")


def metric(figures: Epoch, mode: str) -> float:
    """What a schedule that follows a figure is told: the loss for "min"; for "max" the accuracy that counts most.

    That is robust accuracy, then accuracy, of `val_loader`, then of the training passes; −loss where there is none.
    """
    if mode == "min":
        return figures.loss
    accuracies = (
        figures.val_robust_accuracy,
        figures.val_accuracy,
        figures.robust_accuracy,
        figures.accuracy,
    )
    return next((accuracy for accuracy in accuracies if accuracy is not None), -figures.loss)
