"""A model as an attacker sees it: losses, gradients and verdicts as means over draws of its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stocnoise.batches import Others, explained
from stocnoise.predictors import one_draw_a_pass
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output (B, …), y) → (B,)."""


@dataclass(frozen=True)
class OfMean:
    """−log of the mean over the draws of exp(−loss): of a loss −log p the loss of the mean p, not the mean loss."""

    loss: Loss

    def over(self, losses: Tensor) -> Tensor:
        """(B,) from the losses (draws, B) of each draw."""
        return math.log(len(losses)) - (-losses).logsumexp(0)


# Draws are stacked along the batch up to this many input elements a pass; beyond, they run in turn.
_ELEMENTS_AT_ONCE = 1 << 20


def ask(
    model: nn.Module,
    x: Tensor,
    task: Task,
    others: Others | None = None,
    rows: Tensor | None = None,
    draws: int = 1,
) -> Tensor:
    """The output for x (draws·B, …), `rows` of a batch `draws` times over; `others` are those of the whole batch.

    Raises:
        ValueError: the model gave no such output, or another number of rows.
    """
    with explained(model, x):
        answer = model(x) if others is None else others.call(model, x, rows, draws)
    output = task.read(answer)
    if output.dim() == 0 or len(output) != len(x):
        raise ValueError(f"the model gave an output of shape {tuple(output.shape)} for {len(x)} inputs, not a row each")
    return output


class Ascent(NamedTuple):
    """What draws of the noise say at a point x (B, …)."""

    losses: Tensor
    """(draws, B), what the attack maximises the mean of; (1, B) for a loss `OfMean`."""
    gradient: Tensor
    """Of the mean of `losses`, with respect to x alone; of x's shape."""
    fooled: Tensor
    """(B,), the share of draws that answer as the attack wants: wrongly, or, if it is targeted, as it was told."""

    @property
    def loss(self) -> Tensor:
        """(B,), the mean over the draws."""
        return self.losses.mean(0)


class Target:
    """A model under attack, asked `eot` times at each point.

    Args:
        model: what is attacked, in the mode that it is to be attacked in.
        dtype: of the images that it takes.
        eot: draws of its noise.
        task: what its output means.
        targeted: the y of `ascent` is the answer wanted, not the right one: losses are negated.
        y: the targets of the whole batch, held against the first output; None leaves that out.
        judges: whether the y of `ascent` is one that the task can judge by; if not, nothing counts as fooled.
        others: the model's inputs beside x, for the whole batch.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        eot: int,
        task: Task = MULTICLASS,
        *,
        targeted: bool = False,
        y: Tensor | None = None,
        judges: bool = True,
        others: Others | None = None,
    ) -> None:
        # DDP's forward arms its reducer, which then waits for a backward pass that an attack never makes.
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.dtype = dtype
        self.eot = eot
        self.task = task
        self.targeted = targeted
        self.judges = judges
        self.others = others
        self._unchecked = True
        self._targets = y
        self._alone = one_draw_a_pass(self.model)

    def _forward(self, x: Tensor, rows: Tensor | None, draws: int) -> Tensor:
        output = ask(self.model, x.to(self.dtype), self.task, self.others, rows, draws)
        if self._unchecked:
            self._unchecked = False
            alone = output[: len(x) // draws]
            self.task.check(alone, self._targets if rows is None or self._targets is None else self._targets[rows])
        return output

    def _passes(self, x: Tensor, draws: int) -> Iterator[int]:
        """The numbers of draws to stack in one pass."""
        at_once = 1 if self._alone else max(1, min(draws, _ELEMENTS_AT_ONCE // x.numel()))
        for done in range(0, draws, at_once):
            yield min(at_once, draws - done)

    @torch.no_grad()
    def outputs(self, x: Tensor, draws: int | None = None, rows: Tensor | None = None) -> Tensor:
        """Outputs of `draws` (default `eot`) independent passes, shape (draws, B, …)."""
        draws = self.eot if draws is None else draws
        passes = [self._forward(stacked(x, k), rows, k).unflatten(0, (k, len(x))) for k in self._passes(x, draws)]
        return torch.cat(passes)

    def ascent(self, x: Tensor, y: Tensor, loss: Loss | OfMean, rows: Tensor | None = None) -> Ascent:
        """`eot` draws at x. A gradient that does not exist, or NaN in it, counts as zero: it shows no direction."""
        if isinstance(loss, OfMean):
            return self._ascent_of_mean(x, y, loss, rows)
        all_losses, gradient, fooled = [], torch.zeros_like(x), x.new_zeros(len(x))
        for k in self._passes(x, self.eot):
            point, losses, beaten = self._pass(x, y, loss, rows, k)
            if self.targeted:
                losses = -losses
            # A sum, not a mean: no row's gradient depends on the batch size, and none underflows because of it.
            gradient = gradient + _gradient(losses.sum(), point)
            all_losses.append(losses.detach())
            fooled = fooled + beaten
        return Ascent(torch.cat(all_losses), (gradient / self.eot).nan_to_num_(0.0), fooled / self.eot)

    def _ascent_of_mean(self, x: Tensor, y: Tensor, loss: OfMean, rows: Tensor | None) -> Ascent:
        """∇ −log mean_k exp(−L_k) = Σ_k w_k·∇L_k, w = softmax(−L) over the draws: within passes, then over them."""
        sums, gradients, fooled = [], [], x.new_zeros(len(x))
        for k in self._passes(x, self.eot):
            point, losses, beaten = self._pass(x, y, loss.loss, rows, k)
            likelihood = (-losses).logsumexp(0)
            gradients.append(_gradient(-likelihood.sum(), point))
            sums.append(likelihood.detach())
            fooled = fooled + beaten
        shares = torch.stack(sums).softmax(0).to(x)
        gradient = (torch.stack(gradients) * shares.view(*shares.shape, *[1] * (x.dim() - 1))).sum(0).nan_to_num_(0.0)
        losses = (math.log(self.eot) - torch.stack(sums).logsumexp(0)).unsqueeze(0)
        sign = -1 if self.targeted else 1
        return Ascent(sign * losses, sign * gradient, fooled / self.eot)

    def _pass(
        self, x: Tensor, y: Tensor, loss: Loss, rows: Tensor | None, k: int
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """A point to take the gradient at, its losses (k, B) in k draws, and how many draws of each row are fooled."""
        point = x.detach().requires_grad_()
        targets = stacked(y, k)
        output = self._forward(stacked(point, k), rows, k)
        losses = loss(output, targets)
        if losses.shape != (len(output),):
            raise ValueError(f"the loss must give one value per row, not shape {tuple(losses.shape)}")
        if not self.judges:
            return point, losses.view(k, -1), 0.0
        verdict = (self.task.right if self.targeted else self.task.judge)(output.detach(), targets)
        return point, losses.view(k, -1), verdict.view(k, -1).sum(0)

    def losses(self, x: Tensor, y: Tensor, loss: Loss | OfMean, rows: Tensor | None = None) -> Tensor:
        """Of `eot` fresh draws, as `Ascent.losses`: what the attack maximises the mean of."""
        single = loss.loss if isinstance(loss, OfMean) else loss
        losses = torch.stack([single(output, y) for output in self.outputs(x, rows=rows)])
        if isinstance(loss, OfMean):
            losses = loss.over(losses).unsqueeze(0)
        return -losses if self.targeted else losses


def _gradient(value: Tensor, point: Tensor) -> Tensor:
    """Of `value` with respect to `point`; zero where it does not depend on it."""
    part = torch.autograd.grad(value, point, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(point) if part is None else part


def stacked(x: Tensor, k: int) -> Tensor:
    return x if k == 1 else x.repeat(k, *[1] * (x.dim() - 1))
