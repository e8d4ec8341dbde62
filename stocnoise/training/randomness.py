"""Random numbers of a run: two streams a process, each a function of the seed and the epoch.

One stream makes the batches (order, augmentation), the other trains on them (attack, noise, dropout). Loaders fetch
ahead of training, so with a single stream a resumed run, which loads without training, would draw other numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from stocnoise.undo import undone


def seed_all(seed: int, epoch: int, stream: str) -> None:
    """Seed PyTorch's, Python's and NumPy's generators for one stream of one epoch."""
    import numpy

    own = _mix(seed, epoch, stream)
    torch.manual_seed(own)
    random.seed(own)
    numpy.random.seed(own % 2**32)


def _mix(seed: int, epoch: int, stream: str) -> int:
    return random.Random(f"{seed}/{epoch}/{stream}").getrandbits(63)


class Batches(Iterator[Any]):
    """One epoch of `loader`, its random numbers a stream of their own, the same whatever happens between two batches.

    The loader's own generators, and samplers with `set_epoch`, are set alike in every process, because processes share
    one order; what a process draws beyond that differs by `rank`.
    """

    def __init__(self, loader: Iterable[Any], seed: int, epoch: int, rank: int, device: torch.device) -> None:
        self._device = device
        outside = random_state(device)
        with undone(lambda: set_random_state(outside, device)):
            seed_all(seed, epoch, f"data {rank}")
            for part in _parts(loader):
                if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                    generator.manual_seed(_mix(seed, epoch, "order"))
                if callable(set_epoch := getattr(part, "set_epoch", None)):
                    set_epoch(epoch)
            self._batches = iter(loader)
            self._state = random_state(device)

    def __next__(self) -> Any:
        outside = random_state(self._device)
        set_random_state(self._state, self._device)
        try:
            return next(self._batches)
        finally:
            self._state = random_state(self._device)
            set_random_state(outside, self._device)


def _parts(loader: Any) -> list[Any]:
    """A loader, its samplers, and the samplers that those wrap."""
    parts: list[Any] = []
    waiting = [loader]
    while waiting:
        part = waiting.pop()
        if any(part is seen for seen in parts):
            continue
        parts.append(part)
        names = ("base_dataloader", "sampler", "batch_sampler")
        waiting += [inner for name in names if (inner := getattr(part, name, None)) is not None]
    return parts


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that this process draws from."""
    import numpy

    legacy: dict[str, Any] = numpy.random.get_state(legacy=False)
    keys = torch.from_numpy(legacy["state"]["key"].astype("int64"))
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [keys, legacy["state"]["pos"], legacy["has_gauss"], legacy["gauss"]],
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    import numpy

    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state(("MT19937", keys.numpy().astype("uint32"), position, has_gauss, cached))
    if "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], device)
