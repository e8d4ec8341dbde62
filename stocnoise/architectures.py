"""Models of timm and torchvision by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class UnknownModelError(ValueError):
    """Neither library has a model of this name."""


def builder(name: str, classes: int | None = None, *, pretrained: bool = False) -> Callable[[], nn.Module]:
    """What builds the model `name`; where both libraries have it, timm's.

    Args:
        name: such as resnet50, timm/resnet50 or torchvision/resnet50.
        classes: that it tells apart; default as many as its authors'.
        pretrained: with its authors' weights, which are downloaded; else with random ones.

    Raises:
        UnknownModelError: there is none; the message suggests others.
    """
    library, _, bare = name.rpartition("/")
    if library in ("", "timm"):
        import timm

        if timm.is_model(bare):
            own: dict[str, Any] = {} if classes is None else {"num_classes": classes}
            return lambda: timm.create_model(bare, pretrained=pretrained, **own)
    if library in ("", "torchvision"):
        from torchvision import models

        if bare in models.list_models():
            settings: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
            if bare in models.list_models(models.detection) + models.list_models(models.segmentation):
                settings["weights_backbone"] = None
            if classes is not None:
                settings["num_classes"] = classes
            return lambda: models.get_model(bare, **settings)
    raise UnknownModelError(f"neither timm nor torchvision has a model {name!r}{_alike(bare)}")


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """The model on the meta device, or where its construction needs values, as it is."""
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):
        return build()


def _alike(name: str) -> str:
    import difflib

    import timm
    from torchvision import models

    close = difflib.get_close_matches(name, [*timm.list_models(), *models.list_models()], n=3)
    return f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
