"""One model of a library: how to build it, small and untrained, and what to call it with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Nothing here loads weights; what would look for them fails at once instead.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled", "YOLO_OFFLINE": "true"}
os.environ.update(OFFLINE)

Built = tuple[nn.Module, Any]
"""A model, and its example input as `convert` takes it."""


@dataclass(frozen=True)
class Entry:
    name: str
    build: Callable[[], Built]
    meta: bool = False
    """Built without memory: its calls are counted, but its values cannot be compared."""


Entries = Iterator[Entry]


def image(*size: int, channels: int = 3, batch: int = 2) -> Tensor:
    """Random images (B, C, *size); one number gives squares."""
    height_width = size * 2 if len(size) == 1 else size
    return torch.rand(batch, channels, *height_width)


def volume(side: int, channels: int = 1) -> Tensor:
    return torch.rand(2, channels, side, side, side)


def wave(samples: int, *channels: int) -> Tensor:
    return torch.randn(2, *channels, samples)


def tokens(length: int = 12, vocabulary: int = 50) -> Tensor:
    return torch.randint(3, vocabulary, (2, length))


def on(example: Any, *classes: Callable[..., nn.Module], **options: Any) -> Entries:
    """Each class with the same options and example."""
    for cls in classes:
        yield Entry(cls.__name__, lambda cls=cls: (cls(**options), example))


def on_meta(name: str, make: Callable[[], nn.Module], *shape: int) -> Entry:
    """A model of images, without memory."""

    def build() -> Built:
        with torch.device("meta"):
            model = make()
        return model.to("meta"), torch.empty(*shape, device="meta")

    return Entry(name, build, meta=True)


def entry(name: str, example: Any, make: Callable[..., nn.Module], *args: Any, **options: Any) -> Entry:
    """`make(*args, **options)` under a name."""
    return Entry(name, lambda: (make(*args, **options), example))
