"""The gradient that an optimiser step follows: the mean over the batches of its group, clipped and looked at."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.errors import NonFiniteError
from stocnoise.training.health import non_finite_origin
from stocnoise.training.settings import Settings
from stocnoise.training.snapshot import RunState
from stocnoise.training.step import Step, checked_loss


class Gradient:
    """What the objective's backward passes leave in `.grad`.

    Args:
        settings: the run's.
        state: its tally takes every batch as it is passed through.
    """

    def __init__(self, settings: Settings, state: RunState) -> None:
        self.settings = settings
        self.state = state
        self.accelerator = state.accelerator
        self.group = 0
        """Batches in the gradient so far."""

    def add(self, step: Step) -> None:
        """Add a batch, within Accelerate's `accumulate`; with the last one of a group the gradient is whole.

        Raises:
            NonFiniteError: it is, or the loss is, NaN or infinite. The weights are as they were.
        """
        with self._place(step) as steps:
            for step in steps:
                loss = self._backward(step, last=step is steps[-1])
                self.state.tally.add(step, loss)
            if self.accelerator.sync_gradients:
                parameters = [p for p in self.state.model.parameters() if p.requires_grad]
                self._mean_of_group(parameters)
                limit = self.settings.optimisation.max_grad_norm
                norm = self.accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
                self._check_finite(loss, norm, step)

    def _place(self, step: Step) -> AbstractContextManager[list[Step]]:
        """What the gradient is taken of, and where: of this batch at the weights as they are, unless AWP moves them."""
        moves = self.state.perturbation
        if moves is None or self.state.run.epoch < moves.awp.warmup:
            return nullcontext([step])
        return moves.around(step, self.state.share)

    def _backward(self, step: Step, last: bool) -> Tensor:
        """Processes exchange gradients with the last batch of a group."""
        with nullcontext() if last else self.accelerator.no_sync(self.state.model):
            loss = checked_loss(self.settings.algorithm.objective(step))
            self.accelerator.backward(loss)
        self.group += 1
        return loss

    def _mean_of_group(self, parameters: list[nn.Parameter]) -> None:
        """Accelerate divides by all the batches of a step, of which the last of an epoch may have fewer."""
        whole, self.group = self.accelerator.gradient_accumulation_steps / self.group, 0
        if whole != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(whole)

    def _check_finite(self, loss: Tensor, norm: Any, step: Step) -> None:
        """Stop before the weights are touched. An infinite gradient alone is what fp16's loss scaling deals with."""
        run, scaled = self.state.run, self.accelerator.scaler is not None
        size = loss.detach() if scaled else loss.detach() + torch.as_tensor(norm, device=loss.device)
        if math.isfinite(size.item()):
            return
        origin = non_finite_origin(self.state.student, step.images, step.others)
        if self.accelerator.num_processes > 1:
            origin += f" (process {self.accelerator.process_index})"
        store = self.settings.checkpointing.store
        newest = store.paths() if store is not None else []
        last = f"the last good checkpoint is {newest[-1]}" if newest else "there is no checkpoint"
        raise NonFiniteError(
            f"loss {loss.item():.3g}, gradient norm {float(norm):.3g} at step {run.step + 1} of epoch "
            f"{run.epoch + 1}: it began in {origin}. The weights are from before the step; {last}"
        )
