"""What every attack shares: its settings, what it refuses, and the state a model is left in."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import (
    PIXELS,
    Ball,
    Bounds,
    Norm,
    check_bounds,
    check_eps,
    check_mask,
    check_norm,
    clipped,
    limits,
    norms,
    per_row,
    rounded,
)
from stocnoise.attacks.losses import cross_entropy, reads_labels
from stocnoise.attacks.modes import BatchNormMode, attack_mode, no_weight_gradients
from stocnoise.attacks.target import Target
from stocnoise.batches import Others, check_others
from stocnoise.checks import check_choice, check_model, check_number, check_tensor, check_whole, optional
from stocnoise.tasks import OutputReader, Task, TaskLike, as_task

ASKED = {"asked": True}
"""Metadata of a setting that says what is asked rather than how hard: it is shown where it is not the usual one."""


def is_unsaid(attack: Any, setting: dataclasses.Field[Any]) -> bool:
    """Whether a setting of an attack is one of what is asked, and the usual one."""
    return bool(setting.metadata.get("asked")) and getattr(attack, setting.name) is setting.default


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack is its settings; `attack(model, x, y)` returns adversarial inputs.

    It runs with the noise on, in eval mode, and leaves no trace on the model: modes, buffers, `requires_grad` and
    `.grad` are as before, also after an exception. Only PyTorch's random state moves on. It may be called under
    `no_grad`, `inference_mode` or autocast, with models of any precision; it computes in float32 (float64 for float64).

    Args:
        eot: draws of the noise that each gradient and each decision is averaged over (expectation over transformation).
        batch_norm: "eval" uses BatchNorm's running statistics, "train" the batch's, without moving the running ones.
        task: what the model's output means, and when it is wrong; see `Task`.
        output: what of the model's answer is its output: a key or attribute, an index, or a function.
        bounds: lowest and highest value of an input, numbers or tensors that broadcast to one input, None for no limit.
        mask: of 0 and 1, broadcasting to one input: what may be changed. None: everything.
        targeted: y holds the answers wanted, and the attack succeeds where the model gives them.

    Example:
        >>> class Brighter(stocnoise.Attack):
        ...     def run(self, target, x, y, generator):
        ...         return (x + 0.1).clamp(max=1)
        >>> adversarial = Brighter()(student, images, labels)
    """

    eot: int = 1
    batch_norm: BatchNormMode = "eval"
    task: TaskLike = field(default="multiclass", metadata=ASKED)
    output: OutputReader | None = field(default=None, metadata=ASKED)
    bounds: Bounds = field(default=PIXELS, metadata=ASKED)
    mask: Tensor | None = field(default=None, metadata=ASKED)
    targeted: bool = field(default=False, metadata=ASKED)

    can_be_targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("eot", self.eot)
        check_choice("batch_norm", self.batch_norm, get_args(BatchNormMode))
        as_task(self.task, self.output)
        check_bounds(self.bounds)
        check_mask(self.mask)
        if self.targeted and not self.can_be_targeted:
            raise ValueError(f"{type(self).__name__} has no targeted form: use PGD, APGD or CW with targeted=True")

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        others: Others | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial inputs for `x`, of its shape, dtype and device.

        Args:
            model: returns what `task` takes; class logits (B, C) by default.
            x: inputs within `bounds`, shape (B, …): images of pixels in [0, 1] by default. For a model that expects
                normalised images see `normalized`.
            y: targets of the task, (B,) labels by default, or whatever the attack's `loss` takes. None attacks the
                prediction on the clean inputs, averaged over `eot` draws, which keeps labels from leaking into
                training.
            others: the model's other inputs, passed on as they are.
            generator: source of the attack's own random numbers, such as the random start; default PyTorch's.

        Raises:
            ValueError: inputs outside `bounds`, or targets or an output that the task does not take.
        """
        check_model("model", model)
        check_others(others)
        if not (generator is None or isinstance(generator, torch.Generator)):
            raise TypeError(f"generator must be a torch.Generator, not {generator!r}")
        task = self.meant
        self.check_task(task)
        with torch.inference_mode(False), torch.enable_grad():
            check_input(x, y, self.bounds)
            images, labels = _alive(x), None if y is None else _alive(y)
            if labels is None and self.targeted:
                raise ValueError("a targeted attack needs y, the answers wanted")
            if labels is not None and self._reads_labels():
                labels = task.read_target(labels)
            if len(images) == 0:
                return images.clone()
            target = Target(
                model,
                images.dtype,
                self.eot,
                task,
                targeted=self.targeted,
                y=labels if self._reads_labels() else None,
                judges=self._reads_labels() or task.a_column_a_class,
                others=others,
            )
            work = images if images.dtype == torch.float64 else images.float()
            with attack_mode(model, self.batch_norm), no_weight_gradients(model):
                if labels is None:
                    labels = _predicted(target, work)
                found = self.run(target, work, labels, generator)
            return rounded(found.detach(), images)

    @property
    def meant(self) -> Task:
        """The task, with `output`."""
        return as_task(self.task, self.output)

    def with_defaults(self, **settings: Any) -> Self:
        """This attack with these settings where it has the default ones: what a run says once, its attacks need not."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        unset = {name: value for name, value in settings.items() if name in default}
        unset = {name: value for name, value in unset.items() if getattr(self, name) is default[name]}
        return dataclasses.replace(self, **unset) if unset else self

    def asking(self, queries: int, answers: int) -> Attack:
        """This attack at a budget of so many queries for an image, each question decided by so many answers.

        Raises:
            ValueError: the attack does not count what it asks, or the numbers are no budget.
        """
        raise ValueError(f"{self} does not count its queries: with queries= use square, boundary or hopskipjump")

    def check_task(self, task: Task) -> None:  # noqa: B027 - most attacks can mean any task
        """ValueError if the attack cannot mean this task."""

    def _reads_labels(self) -> bool:
        """Whether y is a target of the task, rather than something that a loss of the user's takes."""
        return reads_labels(getattr(self, "loss", cross_entropy))

    def __str__(self) -> str:
        """The settings as a reader needs them to run it again, ε aside: functions and models by their names."""
        shown = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "eps" and not is_unsaid(self, f)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={_named(value)}' for name, value in shown.items())})"

    @abstractmethod
    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """The search itself: x and y are checked, the model is in attack mode, gradients are enabled."""


def _alive(x: Tensor) -> Tensor:
    """x detached, and cloned if it is an inference tensor, which must not be saved for a backward pass."""
    return x.detach().clone() if x.is_inference() else x.detach()


def _predicted(target: Target, x: Tensor) -> Tensor:
    task = target.task
    if task.decide is None:
        raise ValueError(f"task={task} says not what an output amounts to (decide=…): give the attack targets y")
    return task.decide(task.average(target.outputs(x)))


def _named(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Tensor) and value.numel() > 8:
        return f"tensor of shape {tuple(value.shape)}"
    return getattr(value, "__name__", str(value))


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack that searches the ball of a given radius.

    Args:
        eps: the radius ε, in units of the inputs, or in L∞ a tensor of one for each feature, broadcasting to one input.
        norm: "inf" or "l2".
        eot, batch_norm, task, output, bounds, mask, targeted: see `Attack`.
    """

    eps: float | Tensor = 8 / 255
    norm: Norm = "inf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_eps(self.eps, self.norm, self.bounds)

    @property
    def leaves_ball(self) -> bool:
        """Whether what the attack finds may lie outside: fit to train on, but no measure of robustness within ε."""
        return False

    def ball(self, x: Tensor) -> Ball:
        """The ball of this attack around x (B, …)."""
        return Ball.around(x, self.eps, self.norm, self.bounds, self.mask)

    def scaled(self, share: float) -> Self:
        """The same attack within `share`·ε; whatever else it has in the units of ε shrinks along."""
        return dataclasses.replace(self, eps=self.eps * share)


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that searches for the smallest perturbation; images for which it finds none come back unchanged.

    What it finds lies on the decision boundary, where a stochastic model still says the right class on about half of
    its draws: `overshoot` moves on.
    """


def overshoot(
    x: Tensor,
    found: Tensor,
    factor: float,
    eps: float | Tensor = float("inf"),
    norm: Norm = "inf",
    bounds: Bounds = PIXELS,
) -> Tensor:
    """x + min(factor, ε/‖δ‖)·δ within bounds, δ = found − x: further along the same line, but within the budget ε."""
    for name, value in (("x", x), ("found", found)):
        check_tensor(name, value)
    if found.shape != x.shape:
        raise ValueError(f"found must be of x's shape, {tuple(x.shape)}, not {tuple(found.shape)}")
    check_number("factor", factor)
    if not isinstance(eps, Tensor) and eps != float("inf"):
        check_number("eps", eps)
    check_norm(norm)
    check_bounds(bounds)
    work = x if x.dtype == torch.float64 else x.float()
    delta = found.to(work) - work
    if isinstance(eps, Tensor) and eps.dim():
        delta = torch.where(eps.to(work) > 0, delta, 0.0)
        scale = 1 / norms(delta / eps.to(work).clamp_min(1e-12), "inf").clamp_min(1e-12)
    else:
        scale = eps / norms(delta, norm).clamp_min(1e-12)
    return rounded(clipped(work + per_row(scale.clamp_max(factor), work) * delta, bounds), x)


def check_input(x: Tensor, y: Tensor | None, bounds: Bounds = PIXELS) -> None:
    """ValueError for inputs or targets that no attack can use, at the cost of one look at x."""
    check_tensor("x", x)
    optional(check_tensor, "y", y)
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], not {x.dtype}: divide by 255")
    if y is not None and (y.dim() == 0 or len(y) != len(x)):
        raise ValueError(f"{len(x)} images but {len(y) if y.dim() else 'a single one of'} labels")
    if len(x) == 0 or bounds is None:
        return
    low, high = limits(bounds)
    if bounds is not PIXELS:
        if not ((x >= torch.as_tensor(low).to(x) - 1e-6) & (x <= torch.as_tensor(high).to(x) + 1e-6)).all():
            raise ValueError(f"inputs span [{x.min():.3g}, {x.max():.3g}], outside bounds={bounds}")
        return
    least, largest = torch.stack(x.aminmax()).double().tolist()
    if not (least >= -1e-6 and largest <= 1 + 1e-6):
        raise ValueError(
            f"images span [{least:.3g}, {largest:.3g}], but attacks work on pixels in [0, 1] unless they are told of "
            "other bounds=(low, high). If the model expects normalised images, give pixels and wrap it: "
            "stocnoise.normalized(model, mean, std)"
        )
