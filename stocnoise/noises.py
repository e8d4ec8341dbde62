"""Noises to compare with: each a `layer=` of the same `convert`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stocnoise import functional
from stocnoise.activations import Activation
from stocnoise.layers import StochasticActivation


class StocFixed(StochasticActivation):
    """h(x + √γ · z), z ~ N(0, 1): σ = 1 for ever, the ablation "without EMA" of Tan, Elovici, Binder, ICPR 2020.

    σ can be given other values (`layer.sigma.fill_(0.2)`); no batch moves it. Arguments as for `StochasticActivation`.

    Example:
        >>> student = stocnoise.convert(model, images, layer=stocnoise.StocFixed, gamma=0.01)
    """

    adaptive = False

    def __init__(self, num_channels: int, **settings: Any) -> None:
        super().__init__(num_channels, **settings)
        self.sigma.fill_(1.0)


class StocL2P(StochasticActivation):
    """h(x + √γ · σ_c · z), z ~ N(0, 1), with σ_c a parameter that the loss trains: the noise of Learn2Perturb.

    Its gradient is dL/dσ_c = √γ · Σ z · dL/du over the channel's elements, u the input of h. Train it with the
    objective `Learn2Perturb`, which sets γ = 1 and whose regulariser keeps σ from vanishing. One σ a channel, where the
    paper has one an element, so the image size stays free.

    Arguments as for `StochasticActivation`, though α has no meaning here; σ starts at 0.25.

    Source: Jeddi, Shafiee, Karg, Scharfenberger, Wong, "Learn2Perturb: an End-to-end Feature Perturbation Learning to
    Improve Adversarial Robustness", CVPR 2020.

    Example:
        >>> student = stocnoise.convert(model, images, layer=stocnoise.StocL2P)
        >>> student[2].sigma.requires_grad
        True
    """

    adaptive = False

    def __init__(self, num_channels: int, **settings: Any) -> None:
        super().__init__(num_channels, **settings)
        device = self.sigma.device
        del self.sigma
        self.sigma = nn.Parameter(torch.full((num_channels,), 0.25, device=device))

    def _stochastic(self, x: Tensor, activation: Activation) -> Tensor:
        shape = [-1 if d == self.channel_dim % x.dim() else 1 for d in range(x.dim())]
        normals = functional.stoc_act(
            torch.zeros_like(x),
            torch.ones_like(self.sigma),
            torch.ones_like(self.gamma),
            functional.draw_seed(x.device) if self.fixed_seed is None else self.fixed_seed,
            activation="identity",
            channel_dim=self.channel_dim,
            shared=self.fixed_seed is not None,
        )
        assert isinstance(normals, Tensor)
        scale = (self.gamma.sqrt() * self.sigma).view(shape)
        return activation((x + scale * normals).to(x.dtype))
