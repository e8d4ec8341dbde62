"""Statistics of an averaged student: of its own weights, not averages of those of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stocnoise.layers import StochasticActivation
from stocnoise.training.step import Objective, Step

if TYPE_CHECKING:
    from accelerate import Accelerator

PASSES = 64
"""Batches that are enough: BatchNorm's statistics are means over them, σ forgets by half with each."""


def refresh_statistics(
    averaged: nn.Module,
    student: nn.Module,
    objective: Objective,
    steps: Iterable[Callable[[nn.Module], Step]],
    accelerator: Accelerator,
) -> None:
    """BatchNorm's statistics and σ of `averaged`, from the passes that `objective` makes of it for these steps.

    Modules that stay in eval mode while the student trains keep theirs. `steps` are made of the model one by one. An
    objective that fails on another model than the student costs a warning, not the run.
    """
    moving = _moving(averaged, student)
    if not moving:
        return
    before = {name: value.clone() for name, value in averaged.state_dict().items()}
    momenta = [(module, module.momentum) for module in moving if isinstance(module, _BatchNorm)]
    grads = [p.requires_grad for p in student.parameters()]
    try:
        for module, mode in zip(averaged.modules(), [m.training for m in student.modules()], strict=True):
            module.training = mode
        for parameter, trained in zip(averaged.parameters(), grads, strict=True):
            parameter.requires_grad_(trained)
        for norm, _ in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all passes
        for make in steps:
            with accelerator.autocast():
                objective(make(averaged))
        if accelerator.num_processes > 1:
            for norm, _ in momenta:
                for statistic in (norm.running_mean, norm.running_var):
                    statistic.copy_(accelerator.reduce(statistic, "mean"))  # type: ignore[union-attr]
    except Exception as error:  # whatever an objective of the user's does: the run is over and must not be lost
        averaged.load_state_dict(before)
        warnings.warn(
            f"history.averaged keeps averages of the student's statistics, since the objective fails on a copy of it: "
            f"{error}",
            stacklevel=2,
        )
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        averaged.eval()
        for parameter in averaged.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None


def _moving(averaged: nn.Module, student: nn.Module) -> list[nn.Module]:
    """Those modules of `averaged` whose statistics move while the student trains."""
    pairs = zip(averaged.modules(), student.modules(), strict=True)
    return [module for module, original in pairs if original.training and _keeps_statistics(module)]


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, StochasticActivation):
        return module.adaptive and not module.sigma_frozen
    return isinstance(module, _BatchNorm) and module.track_running_stats
