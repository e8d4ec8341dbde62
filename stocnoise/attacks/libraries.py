"""The adapter through which attacks of other libraries run."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from stocnoise.attacks.base import Target, class_logits


class Classifier(nn.Module):
    """What a library is given: a module in eval mode that takes float32 images and returns float32 logits."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.model = target.model
        self.dtype = target.dtype
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return class_logits(self.model(x.to(self.dtype))).float()


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
