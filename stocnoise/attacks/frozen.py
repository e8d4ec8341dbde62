"""A deterministic classifier drawn from a stochastic one, for attacks that need consistent answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks.target import ask
from stocnoise.batches import Others
from stocnoise.controls import fixed_noise, noise_sources
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS


class _Reseeded(nn.Module):
    """Starts PyTorch's generators from one seed at every call: noise that is not ours becomes the same each time."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(self.seed)
            return self.model(*args, **kwargs)


@torch.no_grad()
def is_stochastic(model: nn.Module, x: Tensor, task: Task = MULTICLASS, others: Others | None = None) -> bool:
    """Whether two passes over x differ by more than rounding."""
    first, second = (ask(model, x, task, others) for _ in range(2))
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


@contextlib.contextmanager
def frozen(
    model: nn.Module, seed: int, x: Tensor, task: Task = MULTICLASS, others: Others | None = None
) -> Iterator[nn.Module]:
    """Within the block: a classifier that answers the same for the same images, made of `model` with one draw of noise.

    For stochastic layers of this package that is `fixed_noise`: every row gets the same noise, so an answer depends
    neither on the batch nor on the row. Noise from anywhere else is seeded anew at each call, which is the same answer
    only as long as a row keeps its place in a batch of the same size.

    Args:
        model: in the mode it is to be attacked in.
        seed: which draw.
        x: a few images, to find out what there is to freeze.
        task: what the model's output means.
        others: the model's other inputs for these images.

    Raises:
        ValueError: with the noise of all stochastic layers fixed, a row's answer still depends on the batch: the first
            dimension of some activation is not the batch (a sequence-first model).
    """
    with contextlib.ExitStack() as stack:
        if noise_sources(model):
            stack.enter_context(fixed_noise(model, seed))
            _check_rows(model, x, task, others)
        yield _Reseeded(model, seed) if is_stochastic(model, x, task, others) else model


@torch.no_grad()
def _check_rows(model: nn.Module, x: Tensor, task: Task, others: Others | None) -> None:
    two, one = (None if others is None else others.first(count) for count in (2, 1))
    both = ask(model, x[:2], task, two)
    together = both[:1]
    alone = ask(model, x[:1], task, one)
    if len(x) > 1 and not is_stochastic(model, x[:1], task, one):
        spread = (together if together.numel() > 1 else both).std().clamp_min(1e-6)
        if (together - alone).abs().max() > 0.05 * spread:
            raise ValueError(
                "with its noise fixed, the model's answer for an image still depends on the other images of the batch. "
                "fixed_noise shares noise along dimension 0, so the batch must be dimension 0 of every activation: "
                "convert a batch-first version of the model"
            )
