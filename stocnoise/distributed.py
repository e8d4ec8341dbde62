"""Statistics of the global batch when a model trains in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Receiver = Callable[[Tensor], None]

_waiting: list[tuple[Tensor, Receiver]] | None = None


def gather_moments(moments: Tensor, receive: Receiver) -> None:
    """Call `receive` with the (W, 3, C) moments of all W ranks, in rank order, from (3, C) of this rank.

    At once, with a message of its own; within `one_message` at the end of the block, with all the others'.
    """
    if _world_size() == 1:
        receive(moments.unsqueeze(0))
    elif _waiting is None or torch.compiler.is_compiling():
        receive(_all_gather(moments))
    else:
        _waiting.append((moments, receive))


@contextmanager
def one_message() -> Iterator[None]:
    """Within the block (a forward pass of the whole model) all layers' statistics wait, then travel in one message.

    σ of a batch serves the next one, so nothing in the pass needs the answer. On leaving the block σ has moved. Every
    rank must enter and leave with the same layers called in the same order. After an exception nothing moves.
    """
    global _waiting
    before, _waiting = _waiting, []
    try:
        yield
        waited = _waiting
    finally:
        _waiting = before
    if waited:
        sizes = [moments.shape[1] for moments, _ in waited]
        gathered = _all_gather(torch.cat([moments for moments, _ in waited], dim=1))
        for part, (_, receive) in zip(gathered.split(sizes, dim=2), waited, strict=True):
            receive(part.contiguous())


def _world_size() -> int:
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_gather(moments: Tensor) -> Tensor:
    world, dist = _world_size(), torch.distributed
    gathered = moments.new_empty(world * moments.shape[0], *moments.shape[1:])  # gloo knows no new dimension
    # PyTorch renames it: from 2.14 on the old name warns, before there is no other.
    gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
    gather(gathered, moments.contiguous())
    return gathered.unflatten(0, (world, -1))
