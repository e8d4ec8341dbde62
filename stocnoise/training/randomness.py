"""Random numbers of a run: each epoch starts from its own seed, and a state can be kept and put back."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch

_MASK = (1 << 63) - 1


def seed_epoch(loader: Iterable[Any], seed: int, epoch: int, rank: int) -> None:
    """Make an epoch a function of (seed, epoch, rank), whatever came before it: order of the data, augmentation, noise.

    The loader's own generators, and samplers with `set_epoch`, get the same seed in every process, because the
    processes share one order.
    """
    import numpy

    shared = _mix(seed, epoch, -1)
    own = _mix(seed, epoch, rank)
    torch.manual_seed(own)
    random.seed(own)
    numpy.random.seed(own % 2**32)
    for part in _parts(loader):
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            generator.manual_seed(shared)
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


def _mix(seed: int, epoch: int, rank: int) -> int:
    return random.Random(f"{seed}/{epoch}/{rank}").getrandbits(64) & _MASK


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
    """The state of every generator that training draws from in this process."""
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
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state(("MT19937", keys.numpy().astype("uint32"), position, has_gauss, cached))
    if "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], device)
