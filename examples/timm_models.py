"""What the examples with timm share: its models as models of pixels in [0, 1], its images as such pixels, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision.datasets import ImageFolder

import stocnoise


def pixel_model(bare: nn.Module) -> nn.Module:
    """A timm model that normalises by itself. Attacks work on pixels: the model is told how to, not the loader."""
    config = resolve_data_config(model=bare)
    return stocnoise.normalized(bare, config["mean"], config["std"])


def images(folder: Path, bare: nn.Module, **settings: Any) -> ImageFolder:
    """One folder of images per class, prepared as the model's authors did, but as pixels in [0, 1]."""
    config = resolve_data_config(model=bare) | {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return ImageFolder(folder, create_transform(**config, **settings))


def load(path: str | Path, name: str, classes: int) -> nn.Module:
    """The model of pixels in a file: a student that `stocnoise.save` wrote, or a checkpoint that timm reads.

    A student may have been made of a normalising model, as `timm_imagenet.py` does, or of timm's own.
    """
    bare = timm.create_model(name, num_classes=classes)
    reasons = []
    for model in (pixel_model(bare), bare):
        try:
            student = stocnoise.load(path, model)
        except stocnoise.FileFormatError as error:
            reasons.append(str(error))
        else:
            return pixel_model(student) if model is bare else student
    print(f"no student of {name} ({reasons[0]}): read as a checkpoint")
    return pixel_model(timm.create_model(name, checkpoint_path=str(path), num_classes=classes))
