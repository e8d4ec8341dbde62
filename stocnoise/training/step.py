"""What an objective, a function that returns the loss, is given: a training batch and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks import Attack
from stocnoise.attacks.features import hooks_seen, inputs_of, the_one
from stocnoise.attacks.target import ask
from stocnoise.batches import Others, check_others
from stocnoise.checks import check_all, check_choice, check_function, check_model, check_tensor, check_whole, optional
from stocnoise.controls import freeze_sigma, stochastic_layers
from stocnoise.distributed import one_message
from stocnoise.tasks import Task, TaskLike, as_task
from stocnoise.tasks.multiclass import MULTICLASS, cross_entropy
from stocnoise.training.chosen import asked_as

Criterion = Callable[[Tensor, Tensor], Tensor]
AttackTarget = Literal["label", "prediction"]
Kind = Literal["clean", "adversarial"]


@dataclass(frozen=True)
class TaskLoss:
    """The mean of the task's loss over the batch."""

    task: Task

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.task.loss(output, target).mean()


def make_criterion(choice: Criterion | None, task: Task) -> Criterion:
    """The given one, or the task's own."""
    if choice is not None:
        return choice
    return F.cross_entropy if task.loss is cross_entropy else TaskLoss(task)


def bare(model: nn.Module) -> nn.Module:
    """The student itself, out of DistributedDataParallel."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class Pass(NamedTuple):
    """What a training pass gave for one batch of images."""

    kind: Kind | None
    """None: images that are neither `x` nor made by `adversarial`."""
    output: Tensor
    """(B, …)."""
    inputs: dict[nn.Module, Tensor]
    """By watched layer, what it was given (B, …)."""


class Step:
    """One training batch, and what an objective can do with it.

    `step.x` and `step.y` are the batch; `step.adversarial()` attacks it; `step.logits(images, …)` is the training pass.

    σ and BatchNorm see the images of the first `logits` call of the step, all of them in one pass: with
    `step.logits(step.x, adversarial)` the batch is the clean and the adversarial half together. In further calls of the
    same step σ stands still, so that it moves once a step.

    Example:
        >>> step = stocnoise.Step(student, images, labels, attack=stocnoise.PGD(steps=5))
        >>> on_clean, on_adversarial = step.logits(step.x, step.adversarial())
        >>> loss = step.loss(on_clean) + step.loss(on_adversarial)
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        attack: Attack,
        attack_target: AttackTarget = "label",
        criterion: Criterion = F.cross_entropy,
        epoch: int = 0,
        task: TaskLike = MULTICLASS,
        others: Others | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        check_model("model", model)
        check_tensor("x", x)
        check_tensor("y", y)
        check_function("attack", attack, "(model, x, y), such as stocnoise.PGD()")
        check_attack_target(attack_target)
        check_function("criterion", criterion, "(output, target)")
        check_whole("epoch", epoch, least=0)
        check_others(others)
        if not callable(autocast):  # a class too, such as nullcontext
            raise TypeError(f"autocast must be a function that makes a context, not {autocast!r}")
        self.model = model
        self.x = x
        self.y = y
        self.epoch = epoch
        """Epochs that are over."""
        self.attack = attack
        self.task = as_task(task)
        """What the model's output means; `y` is its target."""
        self.others = others
        """The model's inputs beside the images."""
        self.images: tuple[Tensor, ...] = ()
        """The images of the last `logits` call."""
        self.correct: dict[str, tuple[Tensor, int]] = {}
        """By "clean" and "adversarial": how many images the training passes got right, and of how many."""
        self.passes: list[Pass] = []
        """What the training passes gave, an entry for each batch of images."""
        self.autocast = autocast
        """The run's mixed precision, for passes of other models; the student's own pass is under it already."""
        self._attack_target = attack_target
        self._criterion = criterion
        self._adversarial: list[Tensor] = []
        self._watched: list[nn.Module] = []
        self._made: Iterator[Tensor] = iter(())

    def again(self) -> Step:
        """The same batch for another pass of an objective: its attacks give, in their order, the images of this one."""
        other = copy(self)
        other.images, other.correct, other.passes, other._adversarial = (), {}, [], []
        other._made = iter(self._adversarial)
        return other

    def adversarial(
        self, attack: Attack | None = None, target: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Adversarial images for `x`, by the run's attack against labels (or clean predictions, as the run was told).

        Args:
            attack: another attack.
            target: another target, whatever the attack's loss takes.
            model: what is attacked, if not the student as it is: one that asks the student and answers otherwise.
        """
        attack = self.attack if attack is None else asked_as(attack, self.attack)
        check_function("attack", attack, "(model, x, y), such as stocnoise.PGD()")
        optional(check_model, "model", model)
        if target is None:
            if getattr(attack, "targeted", False):
                raise ValueError("a targeted attack leads to the answers in y, which are the right ones: give a target")
            target = self.y if self._attack_target == "label" else None
        given: dict[str, Any] = {} if self.others is None else {"others": self.others}
        made = next(self._made, None)
        if made is None:
            made = attack(self.model if model is None else model, self.x, target, **given)
        self._adversarial.append(made)
        return made

    def logits(self, *images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, logits (B, C) by default, of each batch of images, all from one pass in training mode."""
        check_all("images", images, Tensor, "one batch of images or more")
        if not images:
            raise ValueError("images are missing: logits(step.x, …) takes one batch of them or more")
        first, self.images = not self.images, images
        with one_message(), nullcontext() if first else self._sigma_frozen(), ExitStack() as stack:
            seen = {layer: stack.enter_context(inputs_of(layer)) for layer in self._watched}
            given = torch.cat(images) if len(images) > 1 else images[0]
            together = ask(self.model, given, self.task, self.others, draws=len(images))
        sizes = [len(part) for part in images]
        parts = together.split(sizes)
        inputs = {layer: the_one(found, len(given)).split(sizes) for layer, found in seen.items()}
        for i, (part, logits) in enumerate(zip(images, parts, strict=True)):
            kind: Kind | None = "clean" if part is self.x else "adversarial" if self._is_adversarial(part) else None
            self.passes.append(Pass(kind, logits, {layer: found[i] for layer, found in inputs.items()}))
            if kind is not None:
                hits = self.task.right(logits.detach(), self.y).sum()
                before, of = self.correct.get(kind, (torch.zeros_like(hits), 0))
                self.correct[kind] = (before + hits, of + len(part))
        return parts

    @contextmanager
    def watching(self, layer: nn.Module) -> Iterator[None]:
        """Within the block `passes` hold what `layer` of the model is given."""
        check_model("layer", layer)
        self._watched.append(layer)
        try:
            with hooks_seen(self.model):
                yield
        finally:
            self._watched.remove(layer)

    def loss(self, logits: Tensor) -> Tensor:
        """The run's criterion (default the task's own loss, cross-entropy) against `y`."""
        check_tensor("logits", logits)
        y = self.y
        if not isinstance(self._criterion, TaskLoss) and y.is_floating_point() and y.numel() == logits.numel():
            y = y.view_as(logits)  # labels (B,) of logits (B, 1), of which PyTorch's losses think otherwise
        return self._criterion(logits, y)

    def _is_adversarial(self, images: Tensor) -> bool:
        return any(images is made for made in self._adversarial)

    def _sigma_frozen(self) -> AbstractContextManager[Any]:
        return freeze_sigma(self.model) if any(stochastic_layers(self.model)) else nullcontext()


Objective = Callable[[Step], Tensor]


def check_attack_target(choice: str) -> None:
    check_choice("attack_target", choice, get_args(AttackTarget))


def checked_loss(loss: Any) -> Tensor:
    """What an objective returned; ValueError if nothing can be trained by it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"the objective must return the loss of the batch, one number with a gradient, and returned {found}: "
            "criterion and objective end in a mean"
        )
    return loss
