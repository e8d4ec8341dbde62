"""Adversarial weight perturbation: the gradient that the optimiser follows is taken where the loss is higher."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stocnoise.checks import check_number, check_whole
from stocnoise.training.borrowed import statistics_kept
from stocnoise.training.states import is_sharded
from stocnoise.training.step import Objective, Step

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation: each step follows the gradient at w + δ, δ = γ · ‖w‖ · g / ‖g‖ for each weight.

    g is the gradient of the objective's loss at w, on the adversarial images of the step. They are made once, at w, and
    serve both passes; the noise is drawn anew in each. w is then put back bit for bit, and the optimiser steps from it.
    With `accumulate` g is of the whole step: its batches are seen twice, first all for g, then all at w + δ, and wait
    with their adversarial images until then. σ, BatchNorm's statistics and the figures of the history are of the second
    pass alone. Steps where g is not finite are taken at w; the history counts them.

    Costs one more forward and backward pass a batch, and one copy of the weights. An objective is called twice a step,
    and must ask for its attacks in the same order both times. FSDP is refused: shards do not tell ‖w‖.

    Args:
        gamma: γ, the length of δ in units of ‖w‖. The authors take 0.01 for AT, 0.005 for TRADES.
        warmup: epochs without it, at the beginning; the authors take 0 for AT, 10 of 200 for TRADES.

    As in the authors' code w is every trained parameter of at least two dimensions with "weight" in its name: not
    biases, nor what scales a norm.

    Source: Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020.

    Example:
        >>> awp = stocnoise.AWP(gamma=5e-3)
        >>> history = stocnoise.finetune(student, loader, epochs=1, attack="bim", awp=awp, progress=False)
    """

    gamma: float = 5e-3
    warmup: int = 0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, above=0)
        check_whole("warmup", self.warmup, least=0)


class Perturbation:
    """AWP in a run.

    Raises:
        ValueError: the student has no such weight, or FSDP holds it in shards.
    """

    def __init__(
        self, awp: AWP, student: nn.Module, model: nn.Module, objective: Objective, accelerator: Accelerator
    ) -> None:
        if is_sharded(model):
            raise ValueError("awp needs whole weights on every process: it does not work with FSDP")
        self.awp = awp
        self.model = model
        self.student = student
        self.objective = objective
        self.accelerator = accelerator
        self.skipped = 0
        """Steps of the epoch that were not perturbed, g not being finite."""
        named = student.named_parameters()
        self._weights = [w for name, w in named if "weight" in name and w.dim() > 1 and w.requires_grad]
        self._waiting: list[Step] = []
        if not self._weights:
            raise ValueError(
                'awp moves parameters of at least two dimensions with "weight" in their name, and this student trains '
                "none: leave awp out"
            )

    @contextmanager
    def around(self, step: Step, share: float) -> Iterator[list[Step]]:
        """The batches to take the gradient of, within Accelerate's `accumulate`: all of a group at its end, else none.

        Within the block weights are w + `share`·δ.
        """
        with statistics_kept(self.student):
            self.accelerator.backward(self.objective(step))
        self._waiting.append(step)
        if not self.accelerator.sync_gradients:
            yield []
            return
        group, self._waiting = [waiting.again() for waiting in self._waiting], []
        kept = [weight.detach().clone() for weight in self._weights]
        try:
            self._move(share * self.awp.gamma)
            yield group
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](self._weights), kept)  # one call, which no Ctrl-C divides

    @torch.no_grad()
    def _move(self, gamma: float) -> None:
        """w ← w + δ, and no gradient is left. The size of g does not matter, nor so what fp16's loss is scaled by."""
        moved = [(weight, weight.grad) for weight in self._weights if weight.grad is not None]
        lengths = [_length(gradient) for _, gradient in moved]
        if not lengths or torch.stack(lengths).isfinite().all():
            for (weight, gradient), length in zip(moved, lengths, strict=True):
                unit = gamma * _length(weight) / length
                weight.addcmul_(gradient, torch.where(length > 0, unit, 0.0).to(weight.dtype))
        else:
            self.skipped += 1
        self.model.zero_grad()

    def epoch_over(self) -> int:
        """How many of the epoch's steps were not perturbed; said, unless overflows are part of fp16's loss scaling."""
        skipped, self.skipped = self.skipped, 0
        if skipped and self.accelerator.scaler is None:
            warnings.warn(
                f"{skipped} of this epoch's steps were taken without AWP, whose gradient was not finite: a smaller "
                "gamma may help",
                stacklevel=2,
            )
        return skipped

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_whole("skipped", state["skipped"], least=0)
        self.skipped = state["skipped"]


def _length(tensor: Tensor) -> Tensor:
    """‖·‖₂, 0-dim, of half precision in float32."""
    return torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
