"""Predictors that put several answers together, as models: so an attack goes through the whole of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.checks import check_model, check_whole
from stocnoise.input_noise import InputNoise
from stocnoise.normalization import Normalized
from stocnoise.tasks import Task, TaskLike, as_task

M = TypeVar("M", bound=nn.Module)


class Predictor(nn.Module):
    """A model made of others, which says what else an attack on it must go through: a base for one's own.

    `evaluate(…, attacks="strongest")` asks for it, also where `normalized`, noise on the input or `torch.compile`
    stands around.
    """

    def one_draw(self) -> nn.Module:
        """The model whose draws the predictor averages, if it does that: the same answers but for the averaging."""
        return self

    def surrogates(self) -> dict[str, nn.Module]:
        """By name, models of the same inputs and classes whose gradient leads an attack where the own one is masked."""
        return {}

    def margin_bound(self) -> nn.Module | None:
        """A model that is right only where the predictor is right whatever its less robust parts answer, if there is
        one: its robust accuracy is a lower bound of the predictor's.
        """
        return None


def one_draw_a_pass(model: nn.Module) -> bool:
    """Whether all rows of a pass share one draw, as with noise on weights: a module says so by this attribute."""
    return any(getattr(module, "one_draw_a_pass", False) for module in model.modules())


def mean_output(outputs: Tensor, task: Task) -> Tensor:
    """The averaged predictor's output (B, …) from outputs (draws, B, …), of which the task's loss can be taken.

    log of the mean softmax for "multiclass" and "segmentation", else the task's own average.
    """
    if task.link == "softmax":
        return outputs.log_softmax(2).logsumexp(0) - torch.tensor(len(outputs)).log()
    return task.average(outputs)


class Averaged(Predictor):
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
        check_model("model", model)
        check_whole("samples", samples)
        self.model, self.samples, self.task = model, samples, as_task(task)
        self.training = model.training

    def one_draw(self) -> nn.Module:
        return self.model

    def surrogates(self) -> dict[str, nn.Module]:
        return {name: _around(self, each) for name, each in surrogates(self.model).items()}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return mean_output(self._outputs(*args, **kwargs), self.task)

    def _outputs(self, *args: Any, **kwargs: Any) -> Tensor:
        """(samples, B, …)."""
        rows = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())

        def stacked(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() and len(value) == rows:
                return value.repeat(self.samples, *[1] * (value.dim() - 1))
            return value

        if one_draw_a_pass(self.model):
            return torch.stack([self.task.read(self.model(*args, **kwargs)) for _ in range(self.samples)])
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
        mean = mean_output(outputs, self.task)
        votes = F.one_hot(outputs.argmax(2), outputs.shape[2]).sum(0)
        shares = ((votes + mean.exp() / 2) / (self.samples + 0.5)).clamp_min(1e-12).log()
        return mean + (shares - mean).detach()


def samples_of(model: nn.Module) -> int:
    """How many draws go into one answer of a model, under whatever is wrapped around it."""
    return max((module.samples for module in model.modules() if isinstance(module, Averaged)), default=1)


def one_draw(model: nn.Module) -> nn.Module:
    """The model whose draws a predictor averages; any other model itself."""
    return model.one_draw() if isinstance(model, Predictor) else model


def surrogates(model: nn.Module) -> dict[str, nn.Module]:
    """Those of the predictor in `model`, each with what stands around it there; none if there is no predictor."""
    found, around = _predictor(model)
    return {} if found is None else {name: around(each) for name, each in found.surrogates().items()}


def margin_bound(model: nn.Module) -> nn.Module | None:
    """That of the predictor in `model`, with what stands around it there."""
    found, around = _predictor(model)
    bound = None if found is None else found.margin_bound()
    return None if bound is None else around(bound)


def _predictor(model: nn.Module) -> tuple[Predictor | None, Callable[[nn.Module], nn.Module]]:
    """The outermost predictor in `model`, and what puts all that stands around it around another model."""
    model = cast(nn.Module, getattr(model, "_orig_mod", model))
    if isinstance(model, Predictor):
        return model, lambda other: other
    if not isinstance(model, Normalized | InputNoise):
        return None, lambda other: other
    outer = model
    found, around = _predictor(outer.model)
    return found, lambda other: _around(outer, around(other))


def _around(outer: M, inner: nn.Module) -> M:
    """A twin of `outer`, with the same settings, whose `model` is `inner`."""
    twin = copy.copy(outer)
    twin._modules = {**outer._modules, "model": inner}
    return twin
