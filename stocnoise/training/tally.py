"""What an epoch adds up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from stocnoise.training.step import Step

if TYPE_CHECKING:
    from accelerate import Accelerator


class Means(NamedTuple):
    """Of the examples so far; accuracies are fractions, None where no pass measured them."""

    loss: float
    accuracy: float | None
    robust_accuracy: float | None


class Tally:
    """Sums over the steps of an epoch, kept on the device: they are fetched when somebody looks."""

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.values = torch.zeros(6, dtype=wide, device=device)
        """Loss × examples, examples, right and all of the clean ones, right and all of the adversarial."""

    def add(self, step: Step, loss: Tensor) -> None:
        n = len(step.x)
        entries: list[Any] = [loss.detach() * n, n]
        for kind in ("clean", "adversarial"):
            entries += step.correct.get(kind, (0, 0))
        self.values += torch.stack([torch.as_tensor(e, device=self.values.device).to(self.values) for e in entries])

    def means(self, over: Accelerator | None = None) -> Means:
        """Of this process, or over all of an Accelerator's."""
        values = self.values if over is None else over.reduce(self.values, "sum")
        loss, seen, right, clean, right_adversarial, adversarial = values.tolist()
        return Means(
            loss / max(seen, 1),
            right / clean if clean else None,
            right_adversarial / adversarial if adversarial else None,
        )
