"""Signs of false robustness that a model shows by itself, before any attack."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stocnoise.attacks.base import Target, class_logits
from stocnoise.attacks.losses import Loss, cross_entropy, margin
from stocnoise.controls import stochastic_layers

_ZERO_SHARE = 0.01


def model_warnings(model: nn.Module, x: Tensor, y: Tensor, eot: int, stochastic: bool) -> Iterator[str]:
    """Warnings about `model`, in eval mode, on a few images in [0, 1] with their labels."""
    yield from _noise(model, stochastic)
    yield from _output(model, x)
    yield from _gradients(model, x, y, eot)
    yield from _rows(model, x)
    if stochastic:
        yield from _noise_on_output(model, x)


def _noise(model: nn.Module, stochastic: bool) -> Iterator[str]:
    layers = [layer for _, layer in stochastic_layers(model)]
    if layers and not stochastic:
        yield (
            "the model has stochastic layers, but in eval mode it answers the same each time: its noise is switched "
            "off, gamma is 0, or sigma is 0 (stocnoise.calibrate fills it)"
        )
    silent = sum(not layer.noise or not (layer.gamma * layer.sigma.max() > 0) for layer in layers)
    if stochastic and 0 < silent < len(layers):
        yield f"{silent} of {len(layers)} stochastic layers add no noise: switched off, gamma = 0 or sigma = 0"


@torch.no_grad()
def _output(model: nn.Module, x: Tensor) -> Iterator[str]:
    logits = class_logits(model(x)).float()
    if not logits.isfinite().all():
        yield "the model's output on clean images is not finite"
    elif logits.amin() >= 0 and (logits.sum(1) - 1).abs().max() < 1e-3:
        yield (
            "the model returns probabilities, not logits: their gradients vanish where it is sure of itself. Evaluate "
            "the model without its softmax"
        )


def _gradients(model: nn.Module, x: Tensor, y: Tensor, eot: int) -> Iterator[str]:
    def zero_share(loss: Loss) -> float:
        with torch.enable_grad():
            gradient = Target(model, x.dtype, eot).ascent(x.float(), y, loss).gradient
        return (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()

    if (share := zero_share(margin)) > _ZERO_SHARE:
        yield (
            f"the gradient of the logits with respect to the image is zero or NaN for {share:.0%} of the images: "
            "attacks that follow it fail whatever the model is worth. Look for rounding, detach() or saturation in the "
            "model, and attack a differentiable copy of it"
        )
    elif (share := zero_share(cross_entropy)) > _ZERO_SHARE:
        yield (
            f"the gradient of the cross-entropy is zero for {share:.0%} of the images, but not that of the logits: the "
            "logits are too large for it. Use the attacks 'pgd-margin' or 'apgd-dlr'"
        )


def _rows(model: nn.Module, x: Tensor) -> Iterator[str]:
    if len(x) < 2:
        return
    with torch.enable_grad():
        images = x.detach().clone().requires_grad_()
        first = class_logits(model(images))[0].float()
        if not first.requires_grad:
            return
        (gradient,) = torch.autograd.grad(first.sum() + (first * first).sum(), images, allow_unused=True)
    if gradient is not None and gradient[1:].abs().max() > 0:
        yield (
            "what the model says about an image depends on the other images of the batch: attacks on a batch then "
            "work on something else than the model that is used image by image"
        )


def _noise_on_output(model: nn.Module, x: Tensor) -> Iterator[str]:
    """Noise within a network changes its gradients from draw to draw; noise on the logits does not."""
    with torch.enable_grad():
        logits, gradients = [], []
        for _ in range(2):
            images = x.detach().clone().requires_grad_()
            logits.append(class_logits(model(images)).float())
            if not logits[-1].requires_grad:
                return
            weights = torch.linspace(-1, 1, logits[-1].shape[1], device=x.device)
            gradients.append(torch.autograd.grad((logits[-1] * weights).sum(), images)[0].float())
    moved = (logits[0] - logits[1]).norm() / logits[0].norm()
    turned = (gradients[0] - gradients[1]).norm() / gradients[0].norm().clamp_min(1e-30)
    if turned < 1e-3 * moved:
        yield (
            "the noise changes the model's answers but not their gradients, as if it were added to the logits: it "
            "blurs the answers to attacks that query the model, and protects nothing"
        )
