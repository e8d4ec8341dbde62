"""What `finetune` refuses, before anything is changed where that can be known."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader

from stocnoise.training.states import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_student(student: nn.Module) -> None:
    if isinstance(student, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"the student is wrapped in {type(student).__name__}: pass its .module, finetune wraps it itself"
        )
    if is_sharded(student):
        raise ValueError("the student is sharded already: pass it whole, and accelerator= with an FSDP plugin")


def check_run(epochs: int, checkpoint_dir: str | Path | None, checkpoint_every: int | None, resume: bool) -> None:
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    if checkpoint_dir is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need a checkpoint_dir")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1 step, not {checkpoint_every}")


def check_precision(accelerator: Accelerator) -> None:
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            'fp16 needs a GPU: on a CPU Accelerate would train in float32 without a word; precision="bf16" works'
        )


def check_shares(loader: Any, accelerator: Accelerator) -> None:
    shared = accelerator.num_processes > 1 or accelerator.gradient_accumulation_steps > 1
    if shared and not isinstance(loader, DataLoader):
        raise ValueError("sharing batches between processes, and accumulate, need a torch DataLoader")


def check_loader(loader: Iterable[Any]) -> None:
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            "train_loader has no length, which the learning-rate schedule and resuming need: give its dataset a __len__"
        ) from None
    if isinstance(loader, Iterator):
        raise ValueError("train_loader is an iterator, empty after one epoch: pass the loader itself")
    if batches == 0:
        raise ValueError("train_loader is empty: with drop_last=True the data must hold a whole batch")


def warn_of_workers(loader: Iterable[Any]) -> None:
    if getattr(loader, "persistent_workers", False):
        warnings.warn(
            "train_loader has persistent workers, whose random numbers no checkpoint holds: a run resumed from one "
            "augments its images differently; with persistent_workers=False it is exact",
            stacklevel=3,
        )
