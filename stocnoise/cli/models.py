"""The model that a command speaks of: a name of timm or torchvision, `module:function`, a student's folder or file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stocnoise import files, hub
from stocnoise.architectures import UnknownModelError, builder, without_memory
from stocnoise.errors import FileFormatError
from stocnoise.hub.config import Config
from stocnoise.normalization import normalized
from stocnoise.threads import choose_threads


def is_function(name: str) -> bool:
    return ":" in name


def builder_of(name: str, classes: int | None = None, *, pretrained: bool = False) -> Callable[[], nn.Module]:
    """What builds the bare model; a `module:function` is called without arguments, whatever is asked of it.

    Raises:
        UnknownModelError: there is none of this name.
    """
    if not is_function(name):
        return builder(name, classes, pretrained=pretrained)
    module, _, function = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:  # the installed command does not look where it is run
        sys.path.insert(0, str(Path.cwd()))
    try:
        build = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise
        raise UnknownModelError(f"there is no module {module} here or among the installed ones") from error
    except AttributeError as error:
        raise UnknownModelError(f"{module} has no function {function}") from error

    def built() -> nn.Module:
        model = build()
        if not isinstance(model, nn.Module):
            raise UnknownModelError(f"{name} returns a {type(model).__name__}, not a module")
        return model

    return built


def image_config(name: str, size: int | None) -> dict[str, Any]:
    """How the model's authors prepared images, as timm says it: input_size, interpolation, crop_pct, mean, std.

    Raises:
        UnknownModelError: there is no such model.
    """
    name = _named(name)
    if not is_function(name):
        builder(name)
    library, _, bare = name.rpartition("/")
    if is_function(name):
        config: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bicubic"}
    else:
        import timm
        from timm.data.config import resolve_data_config

        if library in ("", "timm") and timm.is_model(bare):
            pretrained = timm.get_pretrained_cfg(bare)
            config = dict(resolve_data_config({}, pretrained_cfg=pretrained.to_dict() if pretrained else {}))
        else:
            config = _torchvision_config(bare)
    if size is not None:
        config["input_size"] = (3, size, size)
    return config


def _torchvision_config(name: str) -> dict[str, Any]:
    from torchvision import models

    preset = models.get_model_weights(name).DEFAULT.transforms()
    if not hasattr(preset, "crop_size"):
        raise ValueError(f"{name} is no classifier of images")
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return {
        "input_size": (3, crop, crop),
        "crop_pct": crop / resize,
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def of_pixels(bare: nn.Module, config: dict[str, Any]) -> nn.Module:
    """The model with its normalisation inside. What a `module:function` builds takes pixels in [0, 1] as it is."""
    return normalized(bare, config["mean"], config["std"]) if "mean" in config else bare


def with_new_head(name: str, classes: int, *, pretrained: bool) -> tuple[nn.Module, list[nn.Parameter]]:
    """The bare model for so many classes, and those of its parameters that are another size for its authors'."""
    model = builder_of(name, classes)()
    if is_function(name):
        return model, []
    theirs = {key: value.shape for key, value in without_memory(builder(name)).state_dict().items()}
    kept = {key for key, value in model.state_dict().items() if theirs.get(key) == value.shape}
    if pretrained:
        state = builder(name, pretrained=True)().state_dict()
        model.load_state_dict({key: state[key] for key in kept}, strict=False)
    return model, [parameter for key, parameter in model.named_parameters() if key not in kept]


def in_file(path: Path, name: str, classes: int | None, config: dict[str, Any]) -> nn.Module:
    """The model of pixels in a file: a student that `stocnoise.save` wrote, or a checkpoint.

    A student may have been made of a normalising model, as `stocnoise finetune` does, or of the bare one.
    """
    if path.is_dir():
        path = path / "student.safetensors"
    bare = builder_of(name, classes)()
    reasons = []
    for model in (of_pixels(bare, config), bare):
        try:
            student = files.load(path, model)
        except FileFormatError as error:
            reasons.append(str(error))
        else:
            return of_pixels(student, config) if model is bare else student
    from timm.models import load_checkpoint

    print(f"no student of {name} ({reasons[0]}): read as a checkpoint")
    try:
        load_checkpoint(bare, str(path), weights_only=True)
    except Exception as error:  # whatever the reader of a foreign format raises
        raise FileFormatError(f"{path} is neither a student nor a checkpoint of {name}: {error}") from error
    return of_pixels(bare, config)


def chosen(name: str, weights: str | None, classes: int | None, config: dict[str, Any]) -> nn.Module:
    """The model of pixels that is evaluated or asked.

    Args:
        name: of the model; or a folder that `stocnoise finetune` or `stocnoise.hub.save` wrote.
        weights: a student's file or folder, or a checkpoint; None: pretrained.
        classes: that it tells apart; None: as many as its authors'.
        config: how its images are prepared.
    """
    if Path(name).is_dir():
        if weights is not None:
            raise ValueError(f"{name} is a folder with weights of its own: give no --weights, or the model's name")
        return hub.load(name)
    return pretrained(name, classes, config) if weights is None else in_file(Path(weights), name, classes, config)


def pretrained(name: str, classes: int | None, config: dict[str, Any]) -> nn.Module:
    """The authors' model of pixels; ValueError if it tells apart another number of classes than `classes`."""
    name = _named(name)
    if classes is not None:
        _, head = with_new_head(name, classes, pretrained=False)
        if head:
            raise ValueError(f"{name} has no pretrained weights for {classes} classes: give --weights, no --transfer")
    return of_pixels(builder_of(name, pretrained=True)(), config)


def _named(name: str) -> str:
    """The name itself, or that in a student's folder."""
    if not Path(name).is_dir():
        return name
    found = Config.read(Path(name))
    if found.teacher is None:
        raise ValueError(f"{name} does not name its model: give its module:function, and --weights {name}")
    return found.teacher


def on_device(model: nn.Module) -> nn.Module:
    """The model where it will run, in eval mode; says on how many threads of a CPU."""
    if torch.cuda.is_available():
        return model.to("cuda").eval()
    print(choose_threads(model), file=sys.stderr)
    return model.eval()
