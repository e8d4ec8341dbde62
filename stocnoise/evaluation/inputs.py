"""The model and the data as an evaluation uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks.modes import inner
from stocnoise.batches import Batch, BatchReader, read_batch
from stocnoise.normalization import Figures, normalized
from stocnoise.predictors import one_draw_a_pass
from stocnoise.tasks import Task


class Counted(nn.Module):
    """Counts the images that pass through a model, with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = inner(model).training
        self.one_draw_a_pass = one_draw_a_pass(model)
        self.gradients = 0
        self.queries = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
            self.gradients += len(tensors[0])
        else:
            self.queries += len(tensors[0])
        return self.model(*args, **kwargs)


def uncounted(model: nn.Module) -> nn.Module:
    """The model that is counted; any other itself."""
    return model.model if isinstance(model, Counted) else model


def pixel_model(model: nn.Module, mean: Figures, std: Figures) -> nn.Module:
    """A model of pixels in [0, 1], out of any wrapper for training in several processes."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or neither")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    return model if mean is None or std is None else normalized(model, mean, std)


def batches(
    data: Iterable[Any], max_images: int | None, device: torch.device, reader: BatchReader, task: Task
) -> Iterator[Batch]:
    """Batches on `device`, their targets as the task takes them, up to `max_images` rows; empty ones are left out."""
    left = max_images
    for given in data:
        batch = read_batch(given, reader).to(device)
        if left is not None:
            batch = batch.first(left)
            left -= len(batch.x)
        if len(batch.x):
            yield batch._replace(y=task.read_target(batch.y))
        if left == 0:
            return


def processes(data: Iterable[Any]) -> tuple[int, int]:
    """Rank and number of the processes that share the batches out among themselves."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    if dist.get_world_size() > 1 and type(data).__module__.startswith("accelerate."):
        raise ValueError("the processes share the batches out themselves: give the plain loader, not a prepared one")
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
    labels = y.double() if y.dim() == 1 else y.flatten(1).double().nansum(1)
    return torch.stack([x.flatten(1).double().sum(1), labels], 1).cpu()
