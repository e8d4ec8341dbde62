"""Where a user's own code meets a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from stocnoise.training.history import History


@dataclass
class Run:
    """A run as its callbacks see it. Setting `stop` ends it after the current epoch, with a last checkpoint."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    """Epochs that are over."""
    step: int = 0
    """Optimiser steps that are over, in all epochs."""
    history: History = field(default_factory=History)
    stop: bool = False


class Callback:
    """Called by `finetune` on every process; override what is needed.

    A callback with state of its own also overrides `state_dict` and `load_state_dict`, and the state becomes a part of
    every checkpoint. Callbacks must not draw random numbers outside a generator of their own.

    Example:
        >>> class StopEarly(stocnoise.Callback):
        ...     def on_epoch_end(self, run):
        ...         run.stop = run.history[-1].loss < 100
        >>> len(stocnoise.finetune(student, loader, epochs=3, callbacks=[StopEarly()], progress=False))
        1
    """

    sets_gamma: ClassVar[bool] = False
    """Whether it sets γ itself; then the run has no `GammaSchedule`."""

    def on_epoch_begin(self, run: Run) -> None:
        """Before an epoch, γ already set; `run.epoch` counts from 0. Called again when a run resumes within one."""

    def on_step_end(self, run: Run) -> None:
        """After an optimiser step."""

    def on_epoch_end(self, run: Run) -> None:
        """After an epoch, its figures in `run.history[-1]`, before its checkpoint."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """After a checkpoint was written; on the main process alone."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, text, None, and lists, tuples and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
