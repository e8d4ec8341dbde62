"""What a training step minimises: an objective is a function of a `Step` that returns the loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stocnoise.attacks import PGD, Attack
from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import Target, ask
from stocnoise.batches import Others, check_others
from stocnoise.checks import (
    check_all,
    check_choice,
    check_function,
    check_model,
    check_number,
    check_tensor,
    check_whole,
)
from stocnoise.controls import freeze_sigma, stochastic_layers
from stocnoise.distributed import one_message
from stocnoise.tasks import Task, TaskLike, as_task
from stocnoise.tasks.multiclass import MULTICLASS, cross_entropy
from stocnoise.tasks.task import unchanged
from stocnoise.training.chosen import asked_as

Criterion = Callable[[Tensor, Tensor], Tensor]
AttackTarget = Literal["label", "prediction"]


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
    ) -> None:
        check_model("model", model)
        check_tensor("x", x)
        check_tensor("y", y)
        check_function("attack", attack, "(model, x, y), such as stocnoise.PGD()")
        check_attack_target(attack_target)
        check_function("criterion", criterion, "(output, target)")
        check_whole("epoch", epoch, least=0)
        check_others(others)
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
        self._attack_target = attack_target
        self._criterion = criterion
        self._adversarial: list[Tensor] = []

    def adversarial(self, attack: Attack | None = None, target: Tensor | None = None) -> Tensor:
        """Adversarial images for `x`, by the run's attack against labels (or clean predictions, as the run was told).

        Args:
            attack: another attack.
            target: another target, whatever the attack's loss takes.
        """
        attack = self.attack if attack is None else asked_as(attack, self.attack)
        check_function("attack", attack, "(model, x, y), such as stocnoise.PGD()")
        if target is None:
            if getattr(attack, "targeted", False):
                raise ValueError("a targeted attack leads to the answers in y, which are the right ones: give a target")
            target = self.y if self._attack_target == "label" else None
        given: dict[str, Any] = {} if self.others is None else {"others": self.others}
        self._adversarial.append(attack(self.model, self.x, target, **given))
        return self._adversarial[-1]

    def logits(self, *images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, logits (B, C) by default, of each batch of images, all from one pass in training mode."""
        check_all("images", images, Tensor, "one batch of images or more")
        if not images:
            raise ValueError("images are missing: logits(step.x, …) takes one batch of them or more")
        first, self.images = not self.images, images
        with one_message(), nullcontext() if first else self._sigma_frozen():
            given = torch.cat(images) if len(images) > 1 else images[0]
            together = ask(self.model, given, self.task, self.others, draws=len(images))
        parts = together.split([len(part) for part in images])
        for part, logits in zip(images, parts, strict=True):
            kind = "clean" if part is self.x else "adversarial" if self._is_adversarial(part) else None
            if kind is not None:
                hits = self.task.right(logits.detach(), self.y).sum()
                before, of = self.correct.get(kind, (torch.zeros_like(hits), 0))
                self.correct[kind] = (before + hits, of + len(part))
        return parts

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


def clean(step: Step) -> Tensor:
    """L(f(x), y)."""
    (logits,) = step.logits(step.x)
    return step.loss(logits)


def at(step: Step) -> Tensor:
    """L(f(x'), y), x' adversarial. Source: Madry et al., ICLR 2018."""
    (logits,) = step.logits(step.adversarial())
    return step.loss(logits)


def mixed(step: Step) -> Tensor:
    """½ L(f(x), y) + ½ L(f(x'), y), both in one pass."""
    on_clean, on_adversarial = step.logits(step.x, step.adversarial())
    return (step.loss(on_clean) + step.loss(on_adversarial)) / 2


def kl_divergence(logits: Tensor, log_probabilities: Tensor) -> Tensor:
    """KL(p ‖ softmax(z)) of each row, shape (B,); log p (B, K, …), the mean over further dimensions."""
    pointwise = F.kl_div(F.log_softmax(logits, 1), log_probabilities, reduction="none", log_target=True)
    divergence = pointwise.sum(1)
    return divergence if divergence.dim() == 1 else divergence.flatten(1).mean(1)


@dataclass(frozen=True)
class Trades:
    """L(f(x), y) + β · mean KL(f(x) ‖ f(x')), x' maximising the same divergence.

    The attack's target is one draw of f(x), in eval mode, held for all its steps: a new draw at each step would move
    the goal. The loss takes f(x) and f(x') from one training pass.

    Args:
        beta: β, what robustness is worth.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019.

    Example:
        >>> history = stocnoise.finetune(student, loader, epochs=1, objective=stocnoise.Trades(beta=3), progress=False)
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta)

    def __call__(self, step: Step) -> Tensor:
        attack = step.attack
        if not isinstance(attack, PGD) or not attack.random_start:
            raise ValueError('objective "trades" needs an attack PGD(random_start=True): at x itself its loss is flat')
        classes = step.task.logits
        if classes is None:
            raise ValueError(f'objective "trades" needs a task with classes, which task={step.task} has not: use "at"')
        with attack_mode(step.model, attack.batch_norm):
            target = Target(step.model, step.x.dtype, eot=1, task=step.task, others=step.others).outputs(step.x)[0]
        loss = kl_divergence if classes is unchanged else lambda output, goal: kl_divergence(classes(output), goal)
        adversarial = step.adversarial(replace(attack, loss=loss), classes(target).log_softmax(1))
        on_clean, on_adversarial = step.logits(step.x, adversarial)
        goal = classes(on_clean.float()).log_softmax(1)
        return step.loss(on_clean) + self.beta * kl_divergence(classes(on_adversarial.float()), goal).mean()


_NAMED: dict[str, Objective] = {"at": at, "trades": Trades(), "mixed": mixed, "clean": clean}


def make_objective(choice: str | Objective) -> Objective:
    """The objective of that name, or the given one."""
    if isinstance(choice, type):
        raise ValueError(f"objective must be an instance, such as {choice.__name__}(), not the class")
    if callable(choice):
        return choice
    if not isinstance(choice, str) or choice not in _NAMED:
        raise ValueError(f"objective must be one of {', '.join(_NAMED)}, or a function of a Step, not {choice!r}")
    return _NAMED[choice]


def checked_loss(loss: Any) -> Tensor:
    """What an objective returned; ValueError if nothing can be trained by it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"the objective must return the loss of the batch, one number with a gradient, and returned {found}: "
            "criterion and objective end in a mean"
        )
    return loss


def check_attack_target(choice: str) -> None:
    check_choice("attack_target", choice, get_args(AttackTarget))
