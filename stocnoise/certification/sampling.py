"""What a model says to many noisy copies of one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from stocnoise.attacks.target import ask
from stocnoise.checks import check_choice
from stocnoise.tasks import Task

Precision = Literal["no", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_on(device: torch.device, choice: Precision | None) -> Precision:
    """The given one; by default bf16 on a GPU, float32 elsewhere: many CPUs have no instructions for bf16.

    Raises:
        ValueError: an unknown name.
    """
    if choice is None:
        return "bf16" if device.type == "cuda" else "no"
    check_choice("precision", choice, get_args(Precision))
    return choice


@dataclass(frozen=True)
class Sampler:
    """Counts the classes that `model` chooses, `batch` copies of an input a pass."""

    model: nn.Module
    task: Task
    batch: int
    precision: Precision

    def counts(self, x: Tensor, draws: int) -> Tensor:
        """(K + 1,) int64 on the CPU, of `draws` copies of x (…): how often each of K classes was the answer, and last
        how often the output was not finite, which is no class: counting it as one could make a certificate false.
        """
        total: Tensor | None = None
        for done in range(0, draws, self.batch):
            found = self._pass(x, min(self.batch, draws - done))
            total = found if total is None else total + found
        assert total is not None
        return total.cpu()

    @torch.no_grad()
    def output(self, x: Tensor) -> Tensor:
        """Of one pass over x (B, …)."""
        with torch.autocast(x.device.type, _DTYPES.get(self.precision), enabled=self.precision != "no"):
            return ask(self.model, x, self.task)

    def _pass(self, x: Tensor, copies: int) -> Tensor:
        output = self.output(x.expand(copies, *x.shape))
        assert self.task.decide is not None and self.task.classes is not None
        classes = self.task.classes(self.task.probabilities(output[:1])).shape[1]
        finite = output.isfinite().flatten(1).all(1) if output.dim() > 1 else output.isfinite()
        answers = self.task.decide(output).reshape(-1)
        return torch.bincount(torch.where(finite, answers, classes), minlength=classes + 1)
