"""Predictors that put several draws together, as models: so an attack goes through the whole of them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.attacks.average import Averaged, mean_output

__all__ = ["Averaged", "Voting", "one_draw", "samples_of"]


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
    return model.model if isinstance(model, Averaged) else model
