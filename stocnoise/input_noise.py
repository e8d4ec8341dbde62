"""Noise on the input: what a certificate of randomised smoothing is about."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.checks import check_model, check_tensor


class InputNoise(nn.Module):
    """f(x + σ·z), z ~ N(0, 1) i.i.d. per element, in train and eval mode alike; see `with_input_noise`.

    z is PyTorch's own normal, in float32 (float64 for float64), not that of the stochastic layers, whose tail ends: a
    certificate needs the whole of it. What is rounded to half precision is the sum, which is a part of f.

    Args:
        model: f, inside, not copied.
        sigma: σ > 0, in units of the input: of pixels in [0, 1]. What `normalized` does comes after the noise, whether
            it stands inside this module or around it.

    Example:
        >>> stocnoise.InputNoise(model, sigma=0.25)(images).shape
        torch.Size([4, 10])
    """

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        check_model("model", model)
        self.model = model
        self.sigma = check_input_noise(sigma)
        self.noise = True
        self.fixed_seed: int | None = None
        self.training = model.training

    @property
    def pretrained_cfg(self) -> Any:
        """What timm's model inside says of its images."""
        return getattr(self.model, "pretrained_cfg", None)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.model(self.added(x), *args, **kwargs)

    def added(self, x: Tensor) -> Tensor:
        """x + σ·z, of x's shape and dtype."""
        check_tensor("x", x)
        if not x.is_floating_point():
            raise ValueError(f"noise on the input needs floating-point inputs, not {x.dtype}")
        if not self.noise:
            return x
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide + self.sigma * self._normals(wide)).to(x.dtype)

    def _normals(self, x: Tensor) -> Tensor:
        if self.fixed_seed is None:
            return torch.randn_like(x)
        generator = torch.Generator(x.device).manual_seed(self.fixed_seed)
        return torch.randn(x.shape[1:], dtype=x.dtype, device=x.device, generator=generator)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}"


def check_input_noise(sigma: float) -> float:
    """σ as a float; ValueError unless it is a finite number above 0."""
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < math.inf:
        raise ValueError(
            f"input_noise must be sigma > 0, a standard deviation in units of the input (pixels of [0, 1]), not {sigma}"
        )
    return float(sigma)


def with_input_noise(model: nn.Module, sigma: float) -> InputNoise:
    """f(x + σ·z), z ~ N(0, I): `model` with noise on its first input, which `certify` can give a certificate.

    `deterministic` and `fixed_noise` switch this noise as they do that of stochastic layers; γ, α and σ of those are
    none of its. The model inside is not copied: `.model` has it back.

    Args:
        model: any model whose first argument is a floating-point tensor (B, …), stochastic inside or not.
        sigma: σ > 0, the standard deviation in units of the input: of pixels in [0, 1], also if `normalized` stands in
            the model or is put around it.

    Raises:
        ValueError: σ is none, or there is noise on the input already.

    Source: Lecuyer et al., S&P 2019; Cohen, Rosenfeld & Kolter, ICML 2019.

    Example:
        >>> smoothed = stocnoise.with_input_noise(model, sigma=0.25).eval()
        >>> torch.equal(smoothed(images), smoothed(images))
        False
    """
    check_model("model", model)
    for module in model.modules():
        if isinstance(module, InputNoise):
            raise ValueError(f"this model has noise on its input already, sigma={module.sigma:g}: give its .model")
    return InputNoise(model, sigma)
