"""The adapter through which attacks of other libraries run: they know classes, and images in [0, 1]."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import Bounds, limits
from stocnoise.attacks.target import Target
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import as_labels


class Classifier(nn.Module):
    """What a library is given: a module in eval mode that takes float32 images and returns float32 class logits.

    A single logit z is given as the two (−z/2, z/2), whose softmax is the same probability (`Task.logits`).
    """

    def __init__(self, target: Target, scale: Scale) -> None:
        super().__init__()
        self.model = target.model
        self.dtype = target.dtype
        self.task = target.task
        self.scale = scale
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        output = self.task.read(self.model(self.scale.inputs(x).to(self.dtype))).float()
        return output if self.task.logits is None else self.task.logits(output)


class Scale:
    """Inputs within bounds as images in [0, 1], and back."""

    def __init__(self, x: Tensor, bounds: Bounds) -> None:
        low, high = (torch.as_tensor(limit).to(x) for limit in limits(bounds))
        self.pixels = bool((low == 0).all() and (high == 1).all())
        if not (low.isfinite().all() and high.isfinite().all()):
            raise ValueError("this attack works between bounds: give it bounds=(low, high)")
        self.low, self.width = low, high - low

    def images(self, x: Tensor) -> Tensor:
        return x if self.pixels else (x - self.low) / self.width

    def inputs(self, images: Tensor) -> Tensor:
        return images if self.pixels else self.low.to(images) + self.width.to(images) * images

    def eps(self, eps: float | Tensor) -> float:
        """ε in units of the images.

        Raises:
            ValueError: it differs from feature to feature.
        """
        scaled = torch.as_tensor(eps).to(self.width) / self.width
        if scaled.numel() > 1 and not torch.allclose(scaled, scaled.flatten()[0].expand_as(scaled)):
            raise ValueError("this attack takes one eps in units of the range of every feature: use PGD or APGD")
        return float(eps) if self.pixels else scaled.flatten()[0].item()


def check_classes(task: Task, attack: str) -> None:
    """ValueError for a task that is no choice between classes."""
    if not task.one_class:
        raise ValueError(f"{attack} chooses between classes and cannot mean task={task}: use PGD or APGD")


def class_labels(y: Tensor) -> Tensor:
    """Labels (B,) int64 of a choice between classes."""
    return as_labels(y).long()


def refuse(attack: str, mask: Tensor | None, target: Target) -> None:
    """ValueError for what no other library's attack can be told."""
    if mask is not None:
        raise ValueError(f"{attack} cannot be kept from changing a part of its input: use PGD, APGD or CW with mask=")
    if target.others is not None:
        raise ValueError(f"{attack} asks models of one input: wrap the model so that its other inputs are fixed")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library; ImportError says which extra brings it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this attack needs {module}: pip install "stocnoise[{extra}]"') from error


@contextlib.contextmanager
def contained(x: Tensor, generator: torch.Generator | None) -> Iterator[int]:
    """Gives a seed, drawn from `generator` or PyTorch's, and undoes what the library does to the random state."""
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device if generator else "cpu").item())
    with torch.random.fork_rng([x.device] if x.is_cuda else []), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(seed)
        yield seed
