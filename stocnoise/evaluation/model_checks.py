"""Signs of false robustness that a model shows by itself, before any attack."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from stocnoise.attacks.losses import Loss, loss_for, margin
from stocnoise.attacks.modes import left_in_training
from stocnoise.attacks.target import OfMean, ask
from stocnoise.batches import Batch
from stocnoise.controls import stochastic_layers
from stocnoise.evaluation.subject import Subject

_ZERO_SHARE = 0.01


def model_warnings(subject: Subject, batch: Batch, eot: int, stochastic: bool) -> Iterator[str]:
    """Warnings about a model, in eval mode, on a few inputs with their targets."""
    yield from _noise(subject.model, stochastic)
    yield from _output(subject, batch)
    yield from _gradients(subject, batch, eot)
    yield from _rows(subject, batch)
    if stochastic:
        yield from _noise_on_output(subject, batch)


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
def _output(subject: Subject, batch: Batch) -> Iterator[str]:
    output = subject.output(batch).float()
    if not output.isfinite().all():
        yield "the model's output on clean images is not finite"
    elif subject.task.link == "softmax" and output.amin() >= 0 and (output.sum(1) - 1).abs().max() < 1e-3:
        yield (
            "the model returns probabilities, not logits: their gradients vanish where it is sure of itself. Evaluate "
            "the model without its softmax"
        )
    elif subject.task.link == "sigmoid" and output.amin() >= 0 and output.amax() <= 1:
        yield (
            "the model's output lies in [0, 1], as if it were probabilities, not logits: then every answer counts as "
            "yes. Evaluate the model without its sigmoid"
        )


def _gradients(subject: Subject, batch: Batch, eot: int) -> Iterator[str]:
    def zero_share(loss: Loss | OfMean) -> float:
        gradient = subject.ascent(batch, eot, loss).gradient
        return (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()

    task = subject.task
    own = task.loss if task.margin is None else loss_for(task, margin)
    if (share := zero_share(own)) > _ZERO_SHARE:
        yield (
            f"the gradient of the logits with respect to the image is zero or NaN for {share:.0%} of the images: "
            "attacks that follow it fail whatever the model is worth. Look for rounding, detach() or saturation in the "
            "model, and attack a differentiable copy of it"
        )
    elif own is not task.loss and (share := zero_share(task.loss)) > _ZERO_SHARE:
        yield (
            f"the gradient of the cross-entropy is zero for {share:.0%} of the images, but not that of the logits: the "
            "logits are too large for it. Use the attacks 'pgd-margin' or 'apgd-dlr'"
        )


def _rows(subject: Subject, batch: Batch) -> Iterator[str]:
    if depends_on_batch(subject, batch):
        yield (
            "what the model says about an image depends on the other images of the batch: attacks on a batch then "
            "work on something else than the model that is used image by image"
        )


def depends_on_batch(subject: Subject, batch: Batch) -> bool:
    """Whether the first row's output has a gradient with respect to other rows."""
    if len(batch.x) < 2:
        return False
    with torch.enable_grad():
        images = batch.x.detach().clone().requires_grad_()
        first = ask(subject.model, images, subject.task, batch.others)[0].float()
        if not first.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(first.sum() + (first * first).sum(), images, allow_unused=True)
    return gradient is not None and bool(gradient[1:].abs().max() > 0)


def _noise_on_output(subject: Subject, batch: Batch) -> Iterator[str]:
    """Noise within a network changes its gradients from draw to draw; noise on the logits does not."""
    with torch.enable_grad():
        outputs, gradients = [], []
        for _ in range(2):
            images = batch.x.detach().clone().requires_grad_()
            outputs.append(ask(subject.model, images, subject.task, batch.others).float().flatten(1))
            if not outputs[-1].requires_grad:
                return
            weights = torch.linspace(-1, 1, outputs[-1].shape[1], device=images.device)
            gradients.append(torch.autograd.grad((outputs[-1] * weights).sum(), images)[0].float())
    moved = (outputs[0] - outputs[1]).norm() / outputs[0].norm()
    turned = (gradients[0] - gradients[1]).norm() / gradients[0].norm().clamp_min(1e-30)
    if turned < 1e-3 * moved:
        yield (
            "the noise changes the model's answers but not their gradients, as if it were added to the logits: it "
            "blurs the answers to attacks that query the model, and protects nothing"
        )


def left_on(model: nn.Module) -> str | None:
    """In words, which modules a user left in training inside a model in eval mode; None if there are none."""
    kept = sorted({type(module).__name__ for module in left_in_training(model) if not any(module.children())})
    if not kept:
        return None
    return (
        f"{', '.join(kept)} stands in training mode inside a model in eval mode: it stays so, and the model is treated "
        "as stochastic if its answers differ"
    )
