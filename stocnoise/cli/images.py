"""Folders of images as pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # the model normalises, not the loader


def transform(config: dict[str, Any], *, training: bool = False) -> Any:
    """Prepares an image as the model's authors did; for training with a random crop and flip."""
    from timm.data.transforms_factory import create_transform

    more: dict[str, Any] = {"is_training": True, "auto_augment": None, "re_prob": 0.0} if training else {}
    return create_transform(**config | _PIXELS, **more)


def classes_of(folder: Path, config: dict[str, Any], *, training: bool = False) -> Any:
    """An ImageFolder: one folder of images for each class."""
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return ImageFolder(str(folder), transform(config, training=training))


def shuffled(data: Dataset[Any], batch: int, workers: int, seed: int) -> DataLoader[Any]:
    """All images, always in the same order of chance."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch, shuffle=True, generator=order, num_workers=workers)


def below(paths: Sequence[str]) -> list[Path]:
    """The images that are named, and those in folders that are."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.suffix.lower() in IMG_EXTENSIONS)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no image {path}")
    if not found:
        raise FileNotFoundError(f"there are no images in {', '.join(paths)}")
    return found


class Files(Dataset[Tensor]):
    """Images without labels."""

    def __init__(self, paths: Sequence[Path], config: dict[str, Any]) -> None:
        self.paths, self.transform = paths, transform(config)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.datasets.folder import default_loader

        image: Tensor = self.transform(default_loader(str(self.paths[index])))
        return image
