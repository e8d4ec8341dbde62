"""The model and the data as an evaluation uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks import normalized


class Counted(nn.Module):
    """Counts the images that pass through a model, with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.gradients = 0
        self.queries = 0

    def forward(self, x: Tensor) -> Any:
        if torch.is_grad_enabled() and x.requires_grad:
            self.gradients += len(x)
        else:
            self.queries += len(x)
        return self.model(x)


def pixel_model(model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """A model of pixels in [0, 1], out of any wrapper for training in several processes."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or neither")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    return model if mean is None or std is None else normalized(model, mean, std)


def batches(data: Iterable[Any], max_images: int | None, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) on `device`, up to `max_images` images in all; empty batches are left out."""
    left = max_images
    for batch in data:
        parts = list(batch.values()) if isinstance(batch, Mapping) else batch
        if not (isinstance(parts, (list, tuple)) and len(parts) >= 2 and all(torch.is_tensor(p) for p in parts[:2])):
            raise ValueError(f"a batch must be (images, labels), not {type(batch).__name__}")
        x, y = parts[0].to(device), parts[1].to(device)
        if left is not None:
            x, y = x[:left], y[:left]
            left -= len(x)
        if len(x):
            yield x, y
        if left == 0:
            return


def processes(data: Iterable[Any]) -> tuple[int, int]:
    """Rank and number of the processes that share the batches out among themselves."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    if dist.get_world_size() > 1 and type(data).__module__.startswith("accelerate."):
        raise ValueError("evaluate shares the batches out itself: give it the plain loader, not accelerator.prepare's")
    return dist.get_rank(), dist.get_world_size()


def fingerprint(parts: Iterable[Tensor]) -> str:
    """A short name of the images by their sums and labels, independent of how they were batched."""
    digest = hashlib.sha256()
    for part in parts:
        for total, label in part.tolist():
            digest.update(f"{total:.5f} {label:.0f};".encode())
    return digest.hexdigest()[:16]


def image_sums(x: Tensor, y: Tensor) -> Tensor:
    """(B, 2): what `fingerprint` takes."""
    return torch.stack([x.flatten(1).double().sum(1), y.double()], 1).cpu()
