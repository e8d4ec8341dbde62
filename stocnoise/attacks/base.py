"""What every attack shares: the model as an attacker sees it, and the state it must be left in."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks.ball import Norm, check_norm, norms, per_row
from stocnoise.attacks.losses import Loss

BatchNormMode = Literal["eval", "train"]

# Draws are stacked along the batch up to this many input elements a pass; beyond, they run in turn.
_ELEMENTS_AT_ONCE = 1 << 20


def class_logits(output: Any) -> Tensor:
    """The (B, C) logits in what a classifier returned: the tensor itself, or its attribute `logits`."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise ValueError(f"the model must return class logits of shape (batch, classes), not {found}")
    return logits


@contextlib.contextmanager
def attack_mode(model: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[None]:
    """Within the block `model` is in eval mode, its noise as it was; "train" lets BatchNorm use the batch's statistics.

    Afterwards every module has its own mode again and BatchNorm's buffers are untouched, also after an exception.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = []
    try:
        for module, _ in modes:
            module.training = False
            if batch_norm == "train" and isinstance(module, _BatchNorm):
                module.training = True
                # Copies stand in for the buffers: writing back would look like an in-place change to autograd.
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        buffers.append((module, name, buffer))
                        module._buffers[name] = buffer.clone()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


@contextlib.contextmanager
def _no_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Within the block the parameters of a compiled model are frozen: its backward pass computes all gradients or none.

    In eager mode autograd leaves out what nobody asked for, and autocast keeps its copies of trained weights alone.
    Shards of FSDP, which are no plain parameters, stay as they are: it takes over their `requires_grad` only once.
    """
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    frozen = [p for p in model.parameters() if compiled and type(p) is nn.Parameter and p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_()


class Ascent(NamedTuple):
    """What draws of the noise say at a point x (B, …)."""

    losses: Tensor
    """(draws, B)"""
    gradient: Tensor
    """Of the mean loss over the draws, with respect to x alone; of x's shape."""
    wrong: Tensor
    """(B,), the share of draws that misclassify the row."""

    @property
    def loss(self) -> Tensor:
        """(B,), the mean over the draws."""
        return self.losses.mean(0)


class Target:
    """A classifier under attack: losses, gradients and votes as means over `eot` draws of its noise."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, eot: int, largest_label: int = 0) -> None:
        # DDP's forward arms its reducer, which then waits for a backward pass that an attack never makes.
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.dtype = dtype
        self.eot = eot
        self.largest_label = largest_label

    def _forward(self, x: Tensor) -> Tensor:
        logits = class_logits(self.model(x.to(self.dtype)))
        if logits.shape[1] <= self.largest_label:
            raise ValueError(f"label {self.largest_label} is out of range: the model has {logits.shape[1]} classes")
        return logits if logits.dtype == torch.float64 else logits.float()

    def _passes(self, x: Tensor, draws: int) -> Iterator[int]:
        """The numbers of draws to stack in one pass."""
        at_once = max(1, min(draws, _ELEMENTS_AT_ONCE // x.numel()))
        for done in range(0, draws, at_once):
            yield min(at_once, draws - done)

    @torch.no_grad()
    def logits(self, x: Tensor, draws: int | None = None) -> Tensor:
        """Logits of `draws` (default `eot`) independent passes, shape (draws, B, C)."""
        draws = self.eot if draws is None else draws
        passes = [self._forward(_stacked(x, k)).unflatten(0, (k, len(x))) for k in self._passes(x, draws)]
        return torch.cat(passes)

    def ascent(self, x: Tensor, y: Tensor, loss: Loss) -> Ascent:
        """`eot` draws at x. A gradient that does not exist, or NaN in it, counts as zero: it shows no direction."""
        all_losses, gradient, wrong = [], torch.zeros_like(x), x.new_zeros(len(x))
        for k in self._passes(x, self.eot):
            point = x.detach().requires_grad_()
            targets = _stacked(y, k)
            logits = self._forward(_stacked(point, k))
            losses = loss(logits, targets)
            if losses.shape != (len(logits),):
                raise ValueError(f"the loss must give one value per row, not shape {tuple(losses.shape)}")
            if losses.requires_grad:
                # A sum, not a mean: no row's gradient depends on the batch size, and none underflows because of it.
                (part,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
                gradient = gradient if part is None else gradient + part
            all_losses.append(losses.detach().view(k, -1))
            wrong = wrong + (logits.argmax(1) != as_labels(targets)).view(k, -1).sum(0)
        return Ascent(torch.cat(all_losses), (gradient / self.eot).nan_to_num_(0.0), wrong / self.eot)


def _stacked(x: Tensor, k: int) -> Tensor:
    return x if k == 1 else x.repeat(k, *[1] * (x.dim() - 1))


def as_labels(y: Tensor) -> Tensor:
    """Labels (B,) from labels, or from probabilities (B, C)."""
    return y.argmax(1) if y.dim() == 2 else y


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack is its settings; `attack(model, x, y)` returns adversarial images.

    It runs with the noise on, in eval mode, and leaves no trace on the model: modes, buffers, `requires_grad` and
    `.grad` are as before, also after an exception. Only PyTorch's random state moves on. It may be called under
    `no_grad`, `inference_mode` or autocast, with models of any precision; it computes in float32 (float64 for float64).

    Args:
        eot: draws of the noise that each gradient and each decision is averaged over (expectation over transformation).
        batch_norm: "eval" uses BatchNorm's running statistics, "train" the batch's, without moving the running ones.
    """

    eot: int = 1
    batch_norm: BatchNormMode = "eval"

    def __post_init__(self) -> None:
        if self.eot < 1:
            raise ValueError(f"eot must be at least 1, not {self.eot}")
        if self.batch_norm not in get_args(BatchNormMode):
            raise ValueError(f"batch_norm must be 'eval' or 'train', not {self.batch_norm!r}")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Adversarial images for `x`, of its shape, dtype and device.

        Args:
            model: returns class logits (B, C).
            x: images in pixel space [0, 1], shape (B, …). For a model that expects normalised images see `normalized`.
            y: labels (B,), or whatever the attack's `loss` takes. None attacks the prediction on the clean images,
                averaged over `eot` draws, which keeps labels from leaking into training.
            generator: source of the attack's own random numbers, such as the random start; default PyTorch's.

        Raises:
            ValueError: images outside [0, 1], labels out of range, or a model that does not return logits.
        """
        with torch.inference_mode(False), torch.enable_grad():
            # clone: an inference tensor must not be saved for a backward pass.
            images = x.detach().clone() if x.is_inference() else x.detach()
            labels = None if y is None else y.detach().clone() if y.is_inference() else y.detach()
            largest_label = check_input(images, labels)
            if len(images) == 0:
                return images.clone()
            target = Target(model, images.dtype, self.eot, largest_label)
            work = images if images.dtype == torch.float64 else images.float()
            with attack_mode(model, self.batch_norm), _no_weight_gradients(model):
                if labels is None:
                    labels = target.logits(work).softmax(2).mean(0).argmax(1)
                found = self.run(target, work, labels, generator)
            return found.detach().to(images.dtype)

    def __str__(self) -> str:
        """The settings as a reader needs them to run it again, ε aside: functions and models by their names."""
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "eps"}
        return f"{type(self).__name__}({', '.join(f'{name}={_named(value)}' for name, value in shown.items())})"

    @abstractmethod
    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """The search itself: x and y are checked, the model is in attack mode, gradients are enabled."""


def _named(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return getattr(value, "__name__", str(value))


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack that searches the ball of a given radius.

    Args:
        eps: the radius ε, in pixels of [0, 1].
        norm: "inf" or "l2".
        eot, batch_norm: see `Attack`.
    """

    eps: float = 8 / 255
    norm: Norm = "inf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"eps must be a finite number of at least 0, not {self.eps}")


class MinimumNormAttack(Attack):
    """An attack that searches for the smallest perturbation; images for which it finds none come back unchanged.

    What it finds lies on the decision boundary, where a stochastic model still says the right class on about half of
    its draws: `overshoot` moves on.
    """


def overshoot(x: Tensor, found: Tensor, factor: float, eps: float = float("inf"), norm: Norm = "inf") -> Tensor:
    """x + min(factor, ε/‖δ‖)·δ within [0, 1], δ = found − x: further along the same line, but within the budget ε."""
    delta = found - x
    scale = (eps / norms(delta, norm).clamp_min(1e-12)).clamp_max(factor)
    return (x + per_row(scale, x) * delta).clamp_(0, 1)


def check_input(x: Tensor, y: Tensor | None) -> int:
    """ValueError for images or labels that no attack can use; else the largest label, at the cost of one look at x."""
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], not {x.dtype}: divide by 255")
    if y is not None and len(y) != len(x):
        raise ValueError(f"{len(x)} images but {len(y)} labels")
    if len(x) == 0:
        return 0
    values = list(x.aminmax())
    labelled = y is not None and not y.is_floating_point()
    if labelled:
        assert y is not None
        if y.dim() != 1:
            raise ValueError(f"labels must have shape (batch,), not {tuple(y.shape)}")
        values += list(y.aminmax())
    low, high, *label_range = torch.stack([value.double() for value in values]).tolist()
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(
            f"images span [{low:.3g}, {high:.3g}], but attacks work on pixels in [0, 1]. If the model expects "
            "normalised images, give pixels and wrap it: stocnoise.normalized(model, mean, std)"
        )
    if label_range and label_range[0] < 0:
        raise ValueError(f"label {int(label_range[0])} is out of range: labels start at 0")
    return int(label_range[1]) if label_range else 0
