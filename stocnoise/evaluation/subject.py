"""What is evaluated: a model, what it is asked, and what may be done to its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack
from stocnoise.attacks.ball import PIXELS, Bounds, clipped
from stocnoise.attacks.base import check_input
from stocnoise.attacks.frozen import is_stochastic
from stocnoise.attacks.target import Ascent, Loss, OfMean, Target, ask
from stocnoise.batches import Batch
from stocnoise.evaluation.scoring import Asked, Score, score, unit_probabilities
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS

Wanted = Callable[[Tensor, Tensor], Tensor]
"""(x, y) → the answers that a targeted attack is to bring about."""


@dataclass
class Subject:
    """A model in the mode it is judged in; `bounds` and `mask` are those of every attack that has none of its own."""

    model: nn.Module
    task: Task = MULTICLASS
    bounds: Bounds = PIXELS
    mask: Tensor | None = None
    targets: Wanted | None = None

    def asked(self, batch: Batch, clean: Tensor | None = None, wanted: Tensor | None = None) -> Asked:
        return Asked(batch.y, self.task, batch.others, clean, wanted)

    def of(self, model: nn.Module) -> Subject:
        """The same questions to another model."""
        return replace(self, model=model)

    def output(self, batch: Batch) -> Tensor:
        """One draw's output."""
        return ask(self.model, batch.x, self.task, batch.others)

    def outputs(self, batch: Batch, draws: int) -> Tensor:
        """(draws, B, …)."""
        return Target(self.model, batch.x.dtype, draws, self.task, others=batch.others).outputs(batch.x)

    def check(self, batch: Batch) -> None:
        """ValueError, before any work, if the output or the targets are none of the task's."""
        check_input(batch.x, batch.y, self.bounds)
        with torch.no_grad():
            self.task.check(self.output(batch), batch.y)

    def settings(self) -> dict[str, str]:
        """What differs from the usual question, in words, for the report."""
        found = {"task": str(self.task)} if self.task.name != MULTICLASS.name else {}
        if self.bounds is not PIXELS:
            found["bounds"] = str(self.bounds)
        if self.mask is not None:
            found["mask"] = f"{int(self.mask.sum())} of {self.mask.numel()} may be changed"
        return found

    def is_stochastic(self, batch: Batch) -> bool:
        return is_stochastic(self.model, batch.x, self.task, batch.others)

    @torch.no_grad()
    def shares_noise(self, batch: Batch) -> bool:
        """Whether a stochastic model's rows of one pass share their noise: equal inputs get equal answers there."""
        twice = batch.at(torch.zeros(2, dtype=torch.long, device=batch.x.device))
        first, second = self.output(twice)
        return torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)

    def score(self, batch: Batch, draws: int, x: Tensor | None = None, **known: Tensor | None) -> Score:
        """Of `batch`, or of `x` in the place of its inputs, on fresh draws."""
        if x is None:
            check_input(batch.x, batch.y, self.bounds)
        else:
            x = clipped(x.nan_to_num(0.0), self.bounds)
        return score(self.model, batch.x if x is None else x, self.asked(batch, **known), draws)

    def answers(self, batch: Batch, draws: int) -> Tensor | None:
        """(B, E), how often each answer of a row is right without an attack; None for a task of one answer a row."""
        return unit_probabilities(self.model, batch.x, self.asked(batch), draws)

    def wanted(self, batch: Batch) -> Tensor:
        """What a targeted attack is to bring about: `targets`, or another class drawn at random.

        Raises:
            ValueError: the task has no classes to draw from, and no `targets` are given.
        """
        if self.targets is not None:
            return self.targets(batch.x, batch.y)
        if not self.task.one_class or self.task.classes is None:
            raise ValueError(f"a targeted attack on task={self.task} needs targets=, a function (x, y) -> answers")
        classes = self.task.classes(self.task.probabilities(self.output(batch))).shape[1]
        labels = batch.y if batch.y.dim() == 1 else batch.y.argmax(1)
        return (labels + torch.randint(1, classes, labels.shape, device=labels.device)) % classes

    def attack(self, attack: Attack, batch: Batch, wanted: Tensor | None = None) -> Tensor:
        """Adversarial inputs; what the attack leaves unsaid about the task and the inputs is the subject's."""
        return self.told(attack)(self.model, batch.x, batch.y if wanted is None else wanted, others=batch.others)

    def told(self, attack: Attack, **more: Any) -> Attack:
        """The attack, which now knows what is asked of this subject.

        Raises:
            ValueError: it cannot mean the task.
        """
        task = {} if self.task is MULTICLASS else {"task": self.task}
        complete = attack.with_defaults(bounds=self.bounds, mask=self.mask, **task, **more)
        complete.check_task(complete.meant)
        return complete

    def ascent(self, batch: Batch, eot: int, loss: Loss | OfMean) -> Ascent:
        with torch.enable_grad():
            target = Target(self.model, batch.x.dtype, eot, self.task, others=batch.others)
            return target.ascent(batch.x.float(), batch.y, loss)
