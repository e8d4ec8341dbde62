"""Predictors that put several draws together, as models: so an attack goes through the whole of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.checks import check_model, check_whole
from stocnoise.tasks import TaskLike, as_task


class Averaged(nn.Module):
    """log of the mean softmax over `samples` draws: the averaged predictor, differentiable, for an adaptive attack.

    For tasks without classes a row its output is the task's own average over the draws.

    Args:
        model: a stochastic model.
        samples: draws of an answer.
        task: of the model; see `Task`.
    """

    def __init__(self, model: nn.Module, samples: int = 16, task: TaskLike = "multiclass") -> None:
        super().__init__()
        check_model("model", model)
        check_whole("samples", samples)
        self.model, self.samples, self.task = model, samples, as_task(task)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._mean(self._outputs(*args, **kwargs))

    def _mean(self, outputs: Tensor) -> Tensor:
        if self.task.name in ("multiclass", "segmentation"):
            return outputs.log_softmax(2).logsumexp(0) - torch.tensor(self.samples).log()
        return self.task.average(outputs)

    def _outputs(self, *args: Any, **kwargs: Any) -> Tensor:
        """(samples, B, …)."""
        rows = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())

        def stacked(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() and len(value) == rows:
                return value.repeat(self.samples, *[1] * (value.dim() - 1))
            return value

        answer = self.model(*map(stacked, args), **{name: stacked(value) for name, value in kwargs.items()})
        return self.task.read(answer).unflatten(0, (self.samples, rows))


class Voting(Averaged):
    """log of the share of `samples` draws that vote for each class; ties go to the higher mean probability.

    Votes have no gradient: it is that of the averaged predictor, passed straight through.

    Args:
        model, samples: see `Averaged`.
    """

    def __init__(self, model: nn.Module, samples: int = 16) -> None:
        super().__init__(model, samples)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        outputs = self._outputs(*args, **kwargs)
        mean = self._mean(outputs)
        votes = F.one_hot(outputs.argmax(2), outputs.shape[2]).sum(0)
        shares = ((votes + mean.exp() / 2) / (self.samples + 0.5)).clamp_min(1e-12).log()
        return mean + (shares - mean).detach()


def samples_of(model: nn.Module) -> int:
    """How many draws go into one answer of a model, under whatever is wrapped around it."""
    return max((module.samples for module in model.modules() if isinstance(module, Averaged)), default=1)


def one_draw(model: nn.Module) -> nn.Module:
    """The model whose draws a predictor averages; any other model itself."""
    return model.model if isinstance(model, Averaged) else model
