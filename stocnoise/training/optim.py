"""The optimiser and learning-rate schedule of a run, and what weight decay must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from stocnoise.controls import stochastic_layers


class Scheduler(Protocol):
    """A learning-rate schedule, stepped once after every optimiser step."""

    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


OptimizerChoice = torch.optim.Optimizer | Callable[[Iterable[Any]], torch.optim.Optimizer] | None
SchedulerChoice = Scheduler | Callable[[torch.optim.Optimizer, int], Scheduler] | None


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters of `model` for an optimiser: decayed, except those that are the scale of a noise.

    σ and γ of most layers are buffers, which no optimiser sees; a learned σ (`StocL2P`) is a parameter, and decay would
    pull the noise to zero.
    """
    noise = {id(p) for _, layer in stochastic_layers(model) for p in layer.parameters(recurse=False)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in noise], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in noise], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, choice: OptimizerChoice, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The given optimiser, one made by the given factory from `parameter_groups`, or SGD with Nesterov momentum 0.9.

    Raises:
        ValueError: nothing to train, or the given optimiser decays the scale of a noise.
    """
    groups = parameter_groups(model, weight_decay)
    if not groups:
        raise ValueError("the model has no parameter with requires_grad=True: there is nothing to train")
    if choice is None:
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    optimizer = choice if isinstance(choice, torch.optim.Optimizer) else choice(groups)
    noise = {id(p) for _, layer in stochastic_layers(model) for p in layer.parameters(recurse=False)}
    for group in optimizer.param_groups:
        if group.get("weight_decay", 0) and any(id(p) in noise for p in group["params"]):
            raise ValueError(
                "the optimizer decays a learned sigma, which would pull the noise to zero: build it from "
                "stocnoise.parameter_groups(student, weight_decay)"
            )
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, choice: SchedulerChoice, steps: int) -> Scheduler:
    """The given schedule, one that the given function makes of (optimizer, steps), or one cycle up to the lr."""
    if choice is None:
        # OneCycleLR would cycle the momentum too and refuse optimisers without one.
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1, cycle_momentum=False
        )
    return choice(optimizer, steps) if callable(choice) else choice
