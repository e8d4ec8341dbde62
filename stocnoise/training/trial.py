"""The first batch of a run, looked at before anything moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.normalization import warn_if_bare
from stocnoise.tasks import Task
from stocnoise.training.guided import Guided, parts
from stocnoise.training.learn2perturb import Learn2Perturb
from stocnoise.training.objectives import at, clean
from stocnoise.training.randomness import random_state, set_random_state
from stocnoise.training.step import Objective, bare
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
            warn_if_bare(bare(model), batch.x)
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
        *_, last = parts(self.objective)
        return last is at or last is clean or isinstance(last, Learn2Perturb | Guided)

    def check(self, model: nn.Module, batch: Batch) -> list[str]:
        """What `single` says, of this batch; ValueError if the model does not take it, or the task what comes of it."""
        student, single = bare(model), list[str]()
        outside = random_state(batch.x.device)
        compiled = [(student, student._compiled_call_impl)]
        with (
            undone(lambda: set_random_state(outside, batch.x.device)),
            attributes_kept("_compiled_call_impl", compiled),
            torch.no_grad(),
        ):
            student._compiled_call_impl = None  # hooks must see the layers
            with _watched(student, len(batch.x), single), attack_mode(student):
                output = ask(student, batch.x, self.task, batch.others)
            self.task.check(output, batch.y)
            for part in parts(self.objective):
                if isinstance(part, Guided):
                    part.check(model, batch, self.task)
        return single


@contextmanager
def _watched(model: nn.Module, rows: int, single: list[str]) -> Iterator[None]:
    """Within the block names of layers are added to `single`."""

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and inputs[0].numel() <= rows * inputs[0].shape[1] and name not in single:
                single.append(name)

        return look

    with handles() as held:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                held.append(module.register_forward_pre_hook(watch(name)))
        yield
