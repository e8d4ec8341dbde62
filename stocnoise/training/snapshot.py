"""What the rest of a run depends on, and how it becomes a checkpoint and comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from stocnoise.errors import CheckpointError
from stocnoise.training.best import Kept
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.checkpoints import Checkpoints, mismatch
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.history import History
from stocnoise.training.optim import RateSchedule
from stocnoise.training.randomness import random_state
from stocnoise.training.recorded import require_run
from stocnoise.training.states import bare_optimizer, get_states, is_sharded, set_states
from stocnoise.training.tally import Tally

if TYPE_CHECKING:
    from accelerate import Accelerator

    from stocnoise.training.perturbation import Perturbation


class Stateful(Protocol):
    """What a checkpoint can keep."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Shortening(Stateful, Protocol):
    """A guard in a run, as far as others must know it."""

    @property
    def share(self) -> float:
        """What it has left of the lengths of steps, on images and on weights."""


@dataclass(kw_only=True)
class RunState:
    """All that moves while a run trains, on this process: `take` keeps it, `restore` puts it back."""

    settings: dict[str, Any]  # in words; a checkpoint of others is refused
    run: Run
    model: nn.Module  # what is called: the student, or DDP or FSDP around it
    optimizer: torch.optim.Optimizer
    scheduler: RateSchedule
    schedules: Mapping[str, GammaSchedule | None]
    averaged: Any  # timm's ModelEmaV3, or None
    callbacks: Sequence[Callback]
    accelerator: Accelerator
    tally: Tally
    batch: int = 0  # batches of the current epoch that are over
    perturbation: Perturbation | None = None
    watch: Shortening | None = None

    @property
    def student(self) -> nn.Module:
        return self.run.student

    @property
    def share(self) -> float:
        """What a guard has left of the lengths of steps."""
        return 1.0 if self.watch is None else self.watch.share

    @property
    def parts(self) -> dict[str, Stateful | None]:
        """What keeps a state of its own, by its name in the checkpoint."""
        asked_for = {"awp": self.perturbation, "guard": self.watch}
        return {
            "scheduler": self.scheduler,
            **self.schedules,
            "scaler": self.accelerator.scaler,
            "averaged": None if self.averaged is None else self.averaged.module,
            **{name: part for name, part in asked_for.items() if part is not None},
        }

    @property
    def buffers(self) -> list[Tensor]:
        """Those that may differ between processes."""
        if self.accelerator.num_processes == 1:
            return []
        models = [self.student] if self.averaged is None else [self.student, self.averaged.module]
        return [buffer for model in models for buffer in model.buffers()]


def take(state: RunState, store: Checkpoints) -> Path | None:
    """Write a checkpoint; every process calls it, the main one gets the path.

    Raises:
        CheckpointError: on every process, if the main one could not write it.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    run, accelerator = state.run, state.accelerator
    # What differs between processes: random numbers, the figures of the epoch so far, and BatchNorm's statistics,
    # which DDP makes equal only as the next training pass begins, after that step's attack.
    own = {"random": random_state(accelerator.device), "tally": state.tally.values.cpu(), "buffers": state.buffers}
    processes = gather_object([own])
    model, optimizer = get_states(state.model, bare_optimizer(state.optimizer))
    path: Path | None = None
    outcome: list[str | None] = [None]
    if accelerator.is_main_process:
        tree = {
            "settings": state.settings,
            "epoch": run.epoch,
            "step": run.step,
            "batch": state.batch,
            "stop": run.stop,
            "model": model,
            "optimizer": optimizer,
            **{name: None if part is None else part.state_dict() for name, part in state.parts.items()},
            "callbacks": [callback.state_dict() for callback in state.callbacks],
            "history": run.history.to_dict(),
            "processes": processes,
            **({} if run.history.kept is None else {"best": run.history.kept._asdict()}),
        }
        try:
            path = store.save(run.step, tree)
        except CheckpointError as error:
            outcome = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise CheckpointError(outcome[0])
    return path


def restore(state: RunState, path: Path, tree: dict[str, Any]) -> dict[str, Any] | None:
    """Put the run where `tree`, read from `path`, was taken.

    Returns:
        This process's random state if the checkpoint lies within an epoch, else None: an epoch begins from its seed.

    Raises:
        CheckpointError: the checkpoint is of another run or another model, or says what a run does not write. The
            student is as it was then.
    """
    run = state.run
    require_run(path, tree, state.accelerator.process_index)
    _check_same_run(state, path, tree)
    own = tree["processes"][state.accelerator.process_index]
    if [mine.shape for mine in state.buffers] != [kept.shape for kept in own["buffers"]]:
        raise CheckpointError(f"{path} has buffers of another model for this process. {_ADVICE}")
    if state.tally.values.shape != own["tally"].shape:
        raise CheckpointError(f"{path} has a tally of {own['tally'].numel()} figures, not {state.tally.values.numel()}")
    # What is left can only be judged by whoever wrote it; the student comes last.
    for name, part in state.parts.items():
        if part is not None:
            with _putting_back(path, name):
                part.load_state_dict(tree[name])
    with _putting_back(path, "callbacks"):
        for callback, kept in zip(state.callbacks, tree["callbacks"], strict=True):
            callback.load_state_dict(kept)
    with _putting_back(path, "optimizer"):
        set_states(state.model, bare_optimizer(state.optimizer), tree["model"], tree["optimizer"])
    for mine, kept in zip(state.buffers, own["buffers"], strict=True):
        mine.copy_(kept)
    state.tally.values.copy_(own["tally"])
    run.epoch, run.step, state.batch, run.stop = tree["epoch"], tree["step"], tree["batch"], tree["stop"]
    # The same object: a callback may hold it.
    run.history.replace(History.from_dict(tree["history"]))
    has_best = "best" in tree and (state.accelerator.is_main_process or not is_sharded(state.model))
    run.history.kept = Kept(**tree["best"]) if has_best else None
    return own["random"] if state.batch else None


@contextmanager
def _putting_back(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{path} is of another {name}, or altered: {type(error).__name__}: {error}. {_ADVICE}"
        ) from error


def _check_same_run(state: RunState, path: Path, tree: dict[str, Any]) -> None:
    if state.accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        if len(set(gather_object([tree["step"]]))) > 1:
            raise CheckpointError(f"the processes see different checkpoints: {path.parent} must be a folder they share")
    theirs, ours = tree["settings"], state.settings
    pairs = {name: (theirs.get(name), ours.get(name)) for name in ours | theirs}
    changed = [f"{name}: {before} → {now}" for name, (before, now) in pairs.items() if before != now]
    if not is_sharded(state.model):
        expected: dict[str, Tensor] = state.student.state_dict()
        for found in [tree["model"], *([tree["best"]["model"]] if "best" in tree else [])]:
            if (difference := mismatch(expected, found)) is not None:
                raise CheckpointError(f"{path} is a checkpoint of another model: it {difference}. {_ADVICE}")
    if changed:
        raise CheckpointError(f"{path} is of a run with other settings ({'; '.join(changed)}). {_ADVICE}")


_ADVICE = "Continue that run as it was started, or give this one another checkpoint_dir"
