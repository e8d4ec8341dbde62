"""What is measured of the student on held-out images after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stocnoise.attacks import Attack
from stocnoise.attacks.base import check_input
from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.training.randomness import Batches
from stocnoise.training.settings import Settings
from stocnoise.training.snapshot import RunState
from stocnoise.training.trial import Trial


class Validation:
    """Accuracy and robust accuracy on `val_loader`, one draw of the noise each.

    Args:
        settings: the run's.
        state: what is measured as it is when that is asked for.
        read: makes of what a loader gives a batch on the device.
    """

    def __init__(self, settings: Settings, state: RunState, read: Callable[[Any], Batch]) -> None:
        self.settings = settings
        self.state = state
        self.read = read

    def __call__(self) -> tuple[float | None, float | None]:
        """The two as fractions, None without a loader."""
        loader, task, attack = self._loader, self.settings.algorithm.task, self.settings.algorithm.val_attack
        if loader is None:
            return None, None
        state, clean, robust, seen = self.state, 0, 0, 0
        for batch in self._batches(loader):
            x, y, others = self.read(batch)
            given: dict[str, Any] = {} if others is None else {"others": others}
            adversarial = attack(state.model, x, y, **given)
            with attack_mode(state.student), torch.no_grad():
                outputs = [ask(state.model, images, task, others) for images in (x, adversarial)]
            hits = torch.stack([task.right(output, y) for output in outputs], dim=1)
            hits = state.accelerator.gather_for_metrics(hits)
            clean, robust, seen = clean + hits[:, 0].sum(), robust + hits[:, 1].sum(), seen + len(hits)
        if seen == 0:
            raise ValueError("val_loader gave no batch")
        return float(clean) / seen, float(robust) / seen

    def check(self, trial: Trial) -> None:
        """Raise now what would end the run after its first epoch."""
        # Not Accelerate's loader, which counts on being gone through.
        loader = getattr(self._loader, "base_dataloader", self._loader)
        if loader is None:
            return
        batch, attack = self.read(next(self._batches(loader))), self.settings.algorithm.val_attack
        if isinstance(attack, Attack):
            check_input(batch.x, batch.y, attack.bounds)
        trial.check(self.state.model, batch)

    @property
    def _loader(self) -> Any:
        return self.settings.data.val_loader

    def _batches(self, loader: Any) -> Batches:
        accelerator = self.state.accelerator
        seed, epoch = self.settings.data.seed, self.state.run.epoch
        return Batches(loader, seed, epoch, accelerator.process_index, accelerator.device)
