"""The objective and schedule of Learn2Perturb."""

from __future__ import annotations

import torch
from torch import Tensor

from stocnoise.checks import check_number, check_whole
from stocnoise.controls import set_gamma, stochastic_layers
from stocnoise.noises import StocL2P
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.objectives import clean, mixed
from stocnoise.training.step import Step


class Learn2Perturb(Callback):
    """½ L(f(x), y) + ½ L(f(x'), y) − λ · Σ √σ / H_n, n the epochs with noise, H_n the n-th harmonic number.

    γ is 0 for the first `noise_after` epochs, then 1; the loss is that of clean examples alone for the first
    `adversarial_after`. The last term keeps σ from vanishing, less and less as H_n grows; after each step σ is at least
    `floor`. Network and σ are trained together, where the paper alternates between them.

    Args:
        weight: λ.
        noise_after: epochs before the noise is switched on.
        adversarial_after: epochs before adversarial examples join.
        floor: the smallest σ.

    Source: Jeddi et al., CVPR 2020.

    Example:
        >>> student = stocnoise.convert(model, images, layer=stocnoise.StocL2P)
        >>> asked = dict(objective=stocnoise.Learn2Perturb(), attack_target="prediction", progress=False)
        >>> attack = stocnoise.PGD(eps=8 / 255, steps=7, step_size=0.01)
        >>> history = stocnoise.finetune(student, loader, epochs=1, attack=attack, **asked)
    """

    sets_gamma = True

    def __init__(
        self, weight: float = 1e-4, noise_after: int = 10, adversarial_after: int = 20, floor: float = 0.01
    ) -> None:
        check_number("weight", weight)
        check_whole("noise_after", noise_after, least=0)
        check_whole("adversarial_after", adversarial_after, least=0)
        check_number("floor", floor)
        self.weight = weight
        self.noise_after = noise_after
        self.adversarial_after = adversarial_after
        self.floor = floor

    def __call__(self, step: Step) -> Tensor:
        loss = clean(step) if step.epoch < self.adversarial_after else mixed(step)
        noisy = step.epoch - self.noise_after + 1
        if noisy < 1:
            return loss
        harmonic = sum(1 / n for n in range(1, noisy + 1))
        roots = [layer.sigma.sqrt().sum() for _, layer in stochastic_layers(step.model)]
        return loss - self.weight / harmonic * torch.stack(roots).sum()

    def on_epoch_begin(self, run: Run) -> None:
        layers = [layer for _, layer in stochastic_layers(run.student)]
        if not layers or not all(isinstance(layer, StocL2P) for layer in layers):
            raise ValueError("Learn2Perturb trains a student made by stocnoise.convert(teacher, layer=StocL2P)")
        # Not `layer.noise`: a sigma that takes no part in the pass would stall DistributedDataParallel.
        set_gamma(run.student, float(run.epoch >= self.noise_after))

    def on_step_end(self, run: Run) -> None:
        with torch.no_grad():
            for _, layer in stochastic_layers(run.student):
                layer.sigma.clamp_(min=self.floor)

    def __repr__(self) -> str:
        return (
            f"Learn2Perturb(weight={self.weight:g}, noise_after={self.noise_after}, "
            f"adversarial_after={self.adversarial_after}, floor={self.floor:g})"
        )
