"""What is random in control flow, pinned: a layer skipped by chance is not skipped by luck of a seed.

Single numbers that a model draws from PyTorch are low or high, all alike; other generators begin at a given seed.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.undo import undone

TURNS = threading.RLock()
"""Conversions in threads take turns: random states, warning filters, hooks for all modules are the process's."""

_REAL = {"rand", "rand_like", "uniform_", "bernoulli", "bernoulli_"}
_WHOLE = {"randint", "randint_like", "random_"}


@dataclass(frozen=True)
class Chance:
    """One way to pin it."""

    high: bool = True
    seed: int = 0


FIRST = Chance()
IF_DRAWN = (Chance(high=False),)
"""Further runs where a single number was drawn from PyTorch."""
IF_SEEDED = tuple(Chance(seed=seed) for seed in range(1, 4))
"""Further runs where Python's or NumPy's generator was drawn from."""


class Draws:
    """Pins the single numbers of one run."""

    def __init__(self, chance: Chance) -> None:
        self._high = chance.high
        self.drawn = False

    def pinned(self, name: str, args: tuple[Any, ...], y: Any) -> Any:
        """y, what the random function `name` returned, or a number that is the same in every run."""
        if name not in _REAL and name not in _WHOLE:
            return y
        if not isinstance(y, Tensor) or y.numel() != 1 or y.dim() > 1:
            return y
        self.drawn = True
        number: float = 1 - 2**-20 if self._high else 0.0
        if name in _WHOLE:
            bounds = [arg for arg in args if isinstance(arg, int)] or [2]
            least = bounds[0] if len(bounds) > 1 else 0
            number = bounds[-1] - 1 if self._high else least
        elif name.startswith("bernoulli"):
            number = float(self._high)
        value: Any = number if y.dim() == 0 else [number]
        return torch.tensor(value, dtype=y.dtype, device=y.device)


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Leave the random generators that a run of `model` draws from as they are; one thread at a time."""
    with TURNS, _random_state_kept(model):
        yield


@contextmanager
def _random_state_kept(model: nn.Module) -> Iterator[None]:
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    state_of_numpy = numpy.random.get_state() if numpy else None

    def put_back() -> None:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(state_of_numpy)

    with undone(put_back), torch.random.fork_rng(devices=_cuda_devices(model)):
        yield


@contextmanager
def seeded(model: nn.Module, seed: int, drawn: list[bool]) -> Iterator[None]:
    """All generators from `seed` on, within the block; `drawn` gets whether Python's or NumPy's was used."""
    with random_state_kept(model):
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        for device in _cuda_devices(model):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy:
            numpy.random.seed(seed)
        before = random.getstate(), numpy and numpy.random.get_state()[2]
        yield
        drawn.append(before != (random.getstate(), numpy and numpy.random.get_state()[2]))


def _cuda_devices(model: nn.Module) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters() if parameter.is_cuda}
