"""From a running trainer to a checkpoint and back: everything that the rest of the run depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stocnoise.errors import CheckpointError
from stocnoise.training.checkpoints import mismatch
from stocnoise.training.history import History
from stocnoise.training.randomness import random_state
from stocnoise.training.states import get_states, is_sharded, set_states

if TYPE_CHECKING:
    from stocnoise.training.trainer import Trainer


def take(trainer: Trainer) -> Path | None:
    """Write a checkpoint; every process calls it, the main one gets the path.

    Raises:
        CheckpointError: on every process, if the main one could not write it.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    run, accelerator = trainer.run, trainer.accelerator
    # What differs between processes: random numbers, the figures of the epoch so far, and BatchNorm's statistics,
    # which DDP makes equal only as the next training pass begins, after that step's attack.
    own = {"random": random_state(accelerator.device), "tally": trainer.tally.cpu(), "buffers": _buffers(trainer)}
    processes = gather_object([own])
    model, optimizer = get_states(trainer.model, _bare_optimizer(trainer))
    path: Path | None = None
    outcome: list[str | None] = [None]
    if accelerator.is_main_process:
        assert trainer.checkpoints is not None
        tree = {
            "settings": trainer.settings,
            "epoch": run.epoch,
            "step": run.step,
            "batch": trainer.batch,
            "stop": run.stop,
            "model": model,
            "optimizer": optimizer,
            "scheduler": trainer.scheduler.state_dict(),
            "gamma": trainer.gamma and trainer.gamma.state_dict(),
            "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
            "averaged": trainer.averaged and trainer.averaged.module.state_dict(),
            "callbacks": [callback.state_dict() for callback in trainer.callbacks],
            "history": run.history.to_dict(),
            "processes": processes,
        }
        try:
            path = trainer.checkpoints.save(run.step, tree)
        except CheckpointError as error:
            outcome = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise CheckpointError(outcome[0])
    return path


def restore(trainer: Trainer, path: Path, tree: dict[str, Any]) -> dict[str, Any] | None:
    """Put the run where `tree`, read from `path`, was taken.

    Returns:
        This process's random state if the checkpoint lies within an epoch, else None: an epoch begins from its seed.

    Raises:
        CheckpointError: the checkpoint is of another run or another model. Nothing has been changed then.
    """
    run, accelerator = trainer.run, trainer.accelerator
    _check_same_run(trainer, path, tree)
    try:
        set_states(trainer.model, _bare_optimizer(trainer), tree["model"], tree["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{path} is of another optimizer: {error}") from error
    trainer.scheduler.load_state_dict(tree["scheduler"])
    if trainer.gamma is not None:
        trainer.gamma.load_state_dict(tree["gamma"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(tree["scaler"])
    if trainer.averaged is not None:
        trainer.averaged.module.load_state_dict(tree["averaged"])
    for callback, state in zip(trainer.callbacks, tree["callbacks"], strict=True):
        callback.load_state_dict(state)
    own = tree["processes"][accelerator.process_index]
    for mine, kept in zip(_buffers(trainer), own["buffers"], strict=True):
        mine.copy_(kept)
    trainer.tally = own["tally"].to(trainer.tally)
    run.epoch, run.step, trainer.batch, run.stop = tree["epoch"], tree["step"], tree["batch"], tree["stop"]
    # The same object: a callback may hold it.
    run.history.replace(History.from_dict(tree["history"]))
    return own["random"] if trainer.batch else None


def _buffers(trainer: Trainer) -> list[Tensor]:
    if trainer.accelerator.num_processes == 1:
        return []
    models = [trainer.student] if trainer.averaged is None else [trainer.student, trainer.averaged.module]
    return [buffer for model in models for buffer in model.buffers()]


def _check_same_run(trainer: Trainer, path: Path, tree: dict[str, Any]) -> None:
    accelerator = trainer.accelerator
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        if len(set(gather_object([tree["step"]]))) > 1:
            raise CheckpointError(f"the processes see different checkpoints: {path.parent} must be a folder they share")
    theirs, ours = tree["settings"], trainer.settings
    changed = [f"{name}: {theirs.get(name)} → {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
    if not is_sharded(trainer.model):
        expected: dict[str, Tensor] = trainer.student.state_dict()
        if (difference := mismatch(expected, tree["model"])) is not None:
            raise CheckpointError(f"{path} is a checkpoint of another model: it {difference}. {_ADVICE}")
    if changed:
        raise CheckpointError(f"{path} is of a run with other settings ({'; '.join(changed)}). {_ADVICE}")


_ADVICE = "Continue that run as it was started, or give this one another checkpoint_dir"


def _bare_optimizer(trainer: Trainer) -> Any:
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)
