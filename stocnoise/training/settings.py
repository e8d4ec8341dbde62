"""What `finetune` was asked for, grouped by what changes together.

A group refuses what cannot work, when it is made where that can be known, and says its settings in words. A new field
is in every checkpoint by itself, unless it is marked `UNTOLD`; give it a default that means what was done without it,
and earlier checkpoints still resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from stocnoise.attacks import BallAttack
from stocnoise.batches import Batch, BatchReader, check_reader, read_batch
from stocnoise.checks import (
    check_all,
    check_choice,
    check_function,
    check_number,
    check_path,
    check_seed,
    check_several,
    check_whole,
    optional,
)
from stocnoise.errors import CheckpointError
from stocnoise.training.algorithm import Algorithm
from stocnoise.training.borrowed import accelerator_for
from stocnoise.training.callbacks import Callback
from stocnoise.training.checkpoints import Checkpoints
from stocnoise.training.optim import (
    LR,
    WEIGHT_DECAY,
    OptimizerChoice,
    SchedulerChoice,
    SchedulerStep,
    check_schedule,
)
from stocnoise.training.perturbation import AWP
from stocnoise.training.states import is_sharded
from stocnoise.training.step import Criterion
from stocnoise.training.wording import UNTOLD, told

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where batches come from, how one is read, and the seed of all that is drawn."""

    seed: int
    train_loader: Iterable[Any] = field(metadata=UNTOLD)
    val_loader: Iterable[Any] | None = field(metadata=UNTOLD)
    batch: BatchReader = None

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_reader(self.batch)
        check_several("train_loader", self.train_loader, "batches")
        optional(check_several, "val_loader", self.val_loader, "batches")
        try:
            batches = self.batches
        except TypeError:
            raise ValueError(
                "train_loader has no length, which the learning-rate schedule and resuming need: give its dataset a "
                "__len__"
            ) from None
        if isinstance(self.train_loader, Iterator):
            raise ValueError("train_loader is an iterator, empty after one epoch: pass the loader itself")
        if isinstance(self.val_loader, Iterator):
            raise ValueError("val_loader is an iterator, empty after one epoch: pass the loader itself")
        if isinstance(self.val_loader, Sized) and len(self.val_loader) == 0:
            raise ValueError("val_loader is empty")
        if batches == 0:
            raise ValueError("train_loader is empty: with drop_last=True the data must hold a whole batch")

    @property
    def batches(self) -> int:
        """An epoch, on each process once the loader is prepared."""
        return len(self.train_loader)  # type: ignore[arg-type]

    @property
    def last_rows(self) -> int | None:
        """The rows of an epoch's last batch, of the loader as it was given; None where nothing tells."""
        sampler = getattr(self.train_loader, "batch_sampler", None)
        if type(sampler) is not BatchSampler or not isinstance(sampler.sampler, Sized):
            return None
        size = sampler.batch_size
        return size if sampler.drop_last else len(sampler.sampler) % size or size

    def read(self, batch: Any) -> Batch:
        """The input, the target and the other inputs in what a loader gave."""
        return read_batch(batch, self.batch)

    def warn_of_workers(self) -> None:
        if getattr(self.train_loader, "persistent_workers", False):
            warnings.warn(
                "train_loader has persistent workers, whose random numbers no checkpoint holds: a run resumed from one "
                "augments its images differently; with persistent_workers=False it is exact",
                stacklevel=3,
            )

    def check_shares(self, accelerator: Accelerator) -> None:
        """Of the prepared loader."""
        shared = accelerator.num_processes > 1 or accelerator.gradient_accumulation_steps > 1
        if shared and not isinstance(self.train_loader, DataLoader):
            raise ValueError("sharing batches between processes, and accumulate, need a torch DataLoader")

    def words(self) -> dict[str, Any]:
        return told(self) | {"batches": self.batches}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How it is computed, by Accelerate."""

    precision: Literal["no", "bf16", "fp16"] | None
    accumulate: int
    compile: bool
    channels_last: bool
    log_with: str | None
    accelerator: Accelerator | None

    def __post_init__(self) -> None:
        check_whole("accumulate", self.accumulate)
        optional(check_choice, "precision", self.precision, ("no", "bf16", "fp16"))
        self._check_accelerator()
        if self.accelerator is not None and (
            self.precision is not None or self.accumulate != 1 or self.log_with is not None
        ):
            raise ValueError("precision, accumulate and log_with are settings of your accelerator: give them to it")

    def _check_accelerator(self) -> None:
        from accelerate import Accelerator
        from accelerate.utils import LoggerType

        if self.accelerator is not None and not isinstance(self.accelerator, Accelerator):
            raise TypeError(f"accelerator must be an accelerate.Accelerator, not {self.accelerator!r}")
        if isinstance(self.log_with, str):  # a tracker object is Accelerate's to judge
            check_choice("log_with", self.log_with, [tracker.value for tracker in LoggerType])

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def accelerate(self, folder: str | Path | None) -> AbstractContextManager[Accelerator]:
        """The Accelerator of the run; a tracker writes to `folder`."""
        tracked = {} if self.log_with is None else {"log_with": self.log_with, "project_dir": str(folder or "runs")}
        return accelerator_for(self.accelerator, self.precision, self.accumulate, tracked)

    def check_precision(self, accelerator: Accelerator) -> None:
        if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
            raise ValueError(
                'fp16 needs a GPU: on a CPU Accelerate would train in float32 without a word; precision="bf16" works'
            )

    def words(self, accelerator: Accelerator) -> dict[str, Any]:
        """As Accelerate's configuration and launcher have decided them, not as they were asked for."""
        return {
            "accumulate": accelerator.gradient_accumulation_steps,
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
        }


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How the weights follow the gradient of L, and what averages them."""

    optimizer: OptimizerChoice = field(metadata=UNTOLD)
    scheduler: SchedulerChoice = field(metadata=UNTOLD)
    lr: float | None
    weight_decay: float | None
    max_grad_norm: float | None
    criterion: Criterion
    ema: float | None
    scheduler_step: SchedulerStep | None = None
    awp: AWP | None = None

    def __post_init__(self) -> None:
        optional(check_number, "lr", self.lr, above=0)
        optional(check_number, "weight_decay", self.weight_decay)
        optional(check_number, "max_grad_norm", self.max_grad_norm, above=0)
        if self.ema is not None:
            check_number("ema", self.ema)
            if self.ema >= 1:
                raise ValueError(f"ema, the decay of an average, must be below 1, not {self.ema!r}")
        check_function("criterion", self.criterion, "(output, target)")
        if not isinstance(self.awp, AWP | None):
            raise TypeError(f"awp must be a stocnoise.AWP, such as AWP(gamma=5e-3), not {self.awp!r}")
        check_schedule(self.scheduler, self.scheduler_step)

    def averaged(self, student: nn.Module) -> Any:
        """timm's ModelEmaV3 of the student, None without `ema`."""
        if self.ema is None:
            return None
        from timm.utils.model_ema import ModelEmaV3

        return ModelEmaV3(student, decay=self.ema)

    def check_whole(self, model: nn.Module) -> None:
        if self.ema is not None and is_sharded(model):
            raise ValueError("ema needs whole weights on every process: it does not work with FSDP")

    def words(self, made: torch.optim.Optimizer) -> dict[str, Any]:
        rates = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer is None:
            usual = {"lr": LR, "weight_decay": WEIGHT_DECAY}
            rates = {name: usual[name] if rate is None else rate for name, rate in rates.items()}
        return {"optimizer": type(made).__name__} | told(self) | rates


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Where the run is kept, and how often. None of it decides how the run ends, so no checkpoint tells it."""

    folder: str | Path | None
    every: int | None
    keep: int
    resume: bool

    def __post_init__(self) -> None:
        if self.folder is None and (self.resume or self.every is not None):
            raise ValueError("resume and checkpoint_every need a checkpoint_dir")
        optional(check_path, "checkpoint_dir", self.folder)
        optional(check_whole, "checkpoint_every", self.every)
        check_whole("keep_checkpoints", self.keep)
        if self.store is not None and not self.resume and self.store.paths():
            raise CheckpointError(
                f"{self.folder} holds checkpoints of an earlier run: resume=True continues it, another checkpoint_dir "
                "keeps it"
            )

    @property
    def store(self) -> Checkpoints | None:
        return None if self.folder is None else Checkpoints(Path(self.folder), self.keep)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Who is told how the run goes."""

    callbacks: Sequence[Callback] = field(metadata=UNTOLD)
    progress: bool = field(metadata=UNTOLD)

    def __post_init__(self) -> None:
        check_all("callbacks", self.callbacks, Callback, "instances of stocnoise.Callback")

    def words(self) -> dict[str, Any]:
        return told(self) | {"callbacks": [type(callback).__name__ for callback in self.callbacks]}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a run was asked for."""

    algorithm: Algorithm
    data: Data
    execution: Execution
    optimisation: Optimisation
    checkpointing: Checkpointing
    reporting: Reporting

    def __post_init__(self) -> None:
        attack = self.algorithm.val_attack
        if self.data.val_loader is not None and isinstance(attack, BallAttack) and attack.leaves_ball:
            raise ValueError(
                "val_attack (default attack) may leave the ball, and robust accuracy on val_loader would be of a "
                "larger eps: give val_attack=stocnoise.PGD(eps=…)"
            )

    def words(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """By which a checkpoint knows the run again; `data` holds the prepared loaders."""
        return (
            self.algorithm.words()
            | self.data.words()
            | self.execution.words(accelerator)
            | self.optimisation.words(optimizer)
            | self.reporting.words()
        )
