"""The mean of several draws as one answer of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.tasks import Task, TaskLike, as_task


def mean_output(outputs: Tensor, task: Task) -> Tensor:
    """The averaged predictor's output (B, …) from outputs (draws, B, …), of which the task's loss can be taken.

    log of the mean softmax for "multiclass" and "segmentation", else the task's own average.
    """
    if task.name in ("multiclass", "segmentation"):
        return outputs.log_softmax(2).logsumexp(0) - torch.tensor(len(outputs)).log()
    return task.average(outputs)


class Averaged(nn.Module):
    """log of the mean softmax over `samples` draws: the averaged predictor, differentiable, for an adaptive attack.

    For tasks without classes a row its output is the task's own average over the draws. `stocnoise.Averaged` is
    another thing, an objective: it trains a model for being used like this.

    Args:
        model: a stochastic model.
        samples: draws of an answer.
        task: of the model; see `Task`.
    """

    def __init__(self, model: nn.Module, samples: int = 16, task: TaskLike = "multiclass") -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        self.model, self.samples, self.task = model, samples, as_task(task)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return mean_output(self._outputs(*args, **kwargs), self.task)

    def _outputs(self, *args: Any, **kwargs: Any) -> Tensor:
        """(samples, B, …)."""
        rows = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())

        def stacked(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() and len(value) == rows:
                return value.repeat(self.samples, *[1] * (value.dim() - 1))
            return value

        answer = self.model(*map(stacked, args), **{name: stacked(value) for name, value in kwargs.items()})
        return self.task.read(answer).unflatten(0, (self.samples, rows))
