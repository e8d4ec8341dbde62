"""Models that expect normalised images, attacked in pixel space."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.checks import check_model
from stocnoise.errors import NormalizationWarning
from stocnoise.input_noise import InputNoise

Figures = float | Sequence[float] | Tensor | None


class Normalized(nn.Module):
    """f((x − mean_c) / std_c), the channels along dimension 1, or one mean and std for everything; see `normalized`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Figures, std: Figures) -> None:
        super().__init__()
        check_model("model", model)
        device = next(model.parameters(), torch.empty(0)).device
        given = _figures("mean", mean, device), _figures("std", std, device)
        if given[0].shape != given[1].shape or given[0].dim() > 1 or not (given[1] > 0).all():
            raise ValueError(f"mean and std need one entry per channel, std positive, not {mean} and {std}")
        if isinstance(getattr(model, "_orig_mod", None), InputNoise):
            raise ValueError("noise on the input comes before mean and std: compile what normalized gives, not before")
        self.model = model
        self.register_buffer("mean", given[0], persistent=False)
        self.register_buffer("std", given[1], persistent=False)
        self.training = model.training

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm's model inside says of its images, of which this one takes the pixels."""
        inside = getattr(self.model, "pretrained_cfg", None) or {}
        channels = len(self.mean) if self.mean.dim() else 3
        pixels = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        return {**inside, **pixels} if isinstance(inside, Mapping) else pixels

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        single = self.mean.dim() == 0 or (len(self.mean) == 1 and x.dim() <= 2)
        if not single and (x.dim() < 2 or x.shape[1] != len(self.mean)):
            raise ValueError(
                f"mean has {len(self.mean)} channels but the images have shape {tuple(x.shape)}: a number for mean and "
                "std serves inputs without channels"
            )
        shape = [1] * x.dim() if single else [1, -1] + [1] * (x.dim() - 2)
        model = self.model
        if isinstance(model, InputNoise):  # it is in pixels, wherever it was put
            x, model = model.added(x), model.model
        return model((x - self.mean.to(x).view(shape)) / self.std.to(x).view(shape), *args, **kwargs)


def normalized(model: nn.Module, mean: Figures = None, std: Figures = None) -> Normalized:
    """A model of pixels in [0, 1] from one that expects (x − mean_c) / std_c: then ε is in pixels.

    The model itself is inside, not copied, so its noise, modes and weights are one and the same.

    Args:
        model: expects normalised inputs.
        mean, std: for each channel along dimension 1, or numbers for every value of an input of any shape. None takes
            those that the model was trained with, from timm's `pretrained_cfg` or from torchvision's weights (pass
            `weights.transforms().mean` where the model does not know them).

    Raises:
        ValueError: no figures are given and the model knows none, or they do not fit together.

    Example:
        >>> teacher = stocnoise.normalized(model, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> teacher(images).shape
        torch.Size([4, 10])
    """
    check_model("model", model)
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or neither")
    if mean is None or std is None:
        found = expected_normalization(model)
        if found is None:
            raise ValueError(
                f"{type(model).__name__} does not say how its images are normalised (it has no pretrained_cfg with "
                "mean and std): give both, normalized(model, mean, std)"
            )
        mean, std = found
    return Normalized(model, mean, std)


def expected_normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) that timm's `pretrained_cfg` says the images of `model` are normalised with, if it has one."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not (config.get("mean") and config.get("std")):
        return None
    return tuple(map(float, config["mean"])), tuple(map(float, config["std"]))


_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def warn_if_bare(model: nn.Module, x: Tensor) -> None:
    """Warn, once for each model, that it was trained on normalised images and is given pixels in [0, 1].

    Only where the images have as many channels as its figures, and nothing around the model normalises.
    """
    expected = expected_normalization(model)
    if expected is None or model in _warned or x.dim() != 4 or x.shape[1] != len(expected[0]) or not len(x):
        return
    if expected == ((0.0,) * x.shape[1], (1.0,) * x.shape[1]) or x.amin() < 0 or x.amax() > 1:
        return
    _warned.add(model)
    warnings.warn(
        f"{type(model).__name__} was made for images normalised by its pretrained_cfg (mean {_shown(expected[0])}, std "
        f"{_shown(expected[1])}), and is given pixels in [0, 1] as they are: use stocnoise.normalized(model), or, if "
        "it has been trained on such pixels, drop the cfg: model.pretrained_cfg = None",
        NormalizationWarning,
        stacklevel=3,
    )


def _shown(figures: tuple[float, ...]) -> str:
    return ", ".join(f"{figure:g}" for figure in figures)


def _figures(name: str, given: Figures, device: torch.device) -> Tensor:
    """A copy of the figures, float32."""
    try:
        figures = torch.as_tensor(given, dtype=torch.float32, device=device).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, or one for each channel, not {given!r}") from None
    if isinstance(given, bool) or not figures.isfinite().all():
        raise ValueError(f"{name} must hold finite numbers, not {given!r}")
    return figures
