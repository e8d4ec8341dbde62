"""The first batch of a run, looked at before anything moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.normalization import warn_if_bare
from stocnoise.tasks import Task
from stocnoise.training.learn2perturb import Learn2Perturb
from stocnoise.training.objectives import Objective, at, clean
from stocnoise.training.randomness import random_state, set_random_state
from stocnoise.undo import attributes_kept, handles, undone


class Trial:
    """Looks at every batch before it is trained on; at the first one with a pass of its own, in eval mode.

    That pass moves nothing, random numbers included.

    Args:
        objective, task: the run's.
        last_rows: rows of an epoch's last batch, where that is known and is not the first one too.
    """

    def __init__(self, objective: Objective, task: Task, last_rows: int | None) -> None:
        self.objective = objective
        self.task = task
        self.last_rows = last_rows
        self.over = False
        self.single: list[str] = []
        """The BatchNorm layers in training mode that see one value of a channel for each row."""

    def __call__(self, model: nn.Module, batch: Batch) -> None:
        """ValueError if the output or the target is none of the task's, or the last batch cannot be trained on."""
        last_rows = len(batch.x)
        if not self.over:
            self.over = True
            warn_if_bare(_bare(model), batch.x)
            self.single = self.check(model, batch)
            last_rows = self.last_rows or last_rows
        if last_rows == 1 and self.single and self._passes_alone:
            raise ValueError(
                f"a batch of train_loader, the last of an epoch, has one row, of which BatchNorm ({self.single[0]}) "
                "has no variance: give the DataLoader drop_last=True or another batch_size"
            )

    @property
    def _passes_alone(self) -> bool:
        """Whether the training pass of a batch of one row is known to be one of a single row."""
        return self.objective is at or self.objective is clean or isinstance(self.objective, Learn2Perturb)

    def check(self, model: nn.Module, batch: Batch) -> list[str]:
        """What `single` says, of this batch; ValueError if the model does not take it, or the task what comes of it."""
        student, single = _bare(model), list[str]()
        outside = random_state(batch.x.device)
        with (
            undone(lambda: set_random_state(outside, batch.x.device)),
            _watched(student, len(batch.x), single),
            attack_mode(student),
            torch.no_grad(),
        ):
            output = ask(student, batch.x, self.task, batch.others)
        self.task.check(output, batch.y)
        return single


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def _watched(model: nn.Module, rows: int, single: list[str]) -> Iterator[None]:
    """Within the block names of layers are added to `single`; eager, since hooks must see the layers."""

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and inputs[0].numel() <= rows * inputs[0].shape[1] and name not in single:
                single.append(name)

        return look

    compiled = [(model, model._compiled_call_impl)]
    with handles() as held, attributes_kept("_compiled_call_impl", compiled):
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                held.append(module.register_forward_pre_hook(watch(name)))
        model._compiled_call_impl = None
        yield
