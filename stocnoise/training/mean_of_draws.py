"""Training what is deployed: the mean over several draws of the noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stocnoise.attacks import Attack
from stocnoise.checks import check_whole
from stocnoise.predictors import Averaged as Predictor
from stocnoise.predictors import mean_output
from stocnoise.tasks.task import unchanged
from stocnoise.training.step import Step, bare


@dataclass(frozen=True)
class Averaged:
    """L of the mean of m draws at x': −log (1/m) Σ_k p_y(x'; draw k), x' made through the same mean.

    The attack ascends the loss of the mean probability, not the mean of the losses; each of its gradients, and the
    training pass, takes m draws in one pass of m·B rows. For other tasks than "multiclass" the mean is the task's
    `average`: probabilities of "binary" and "multilabel", those at each pixel for "segmentation".
    `stocnoise.evaluation.Averaged` is another thing, a model: the predictor which this prepares for.

    Args:
        samples: m.

    Source: Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS
    2019, equation 6, on noise inside the model.

    Example:
        >>> step = stocnoise.Step(student, images, labels, attack=stocnoise.PGD(steps=2))
        >>> loss = stocnoise.Averaged(samples=2)(step)
    """

    samples: int = 2

    def __post_init__(self) -> None:
        check_whole("samples", self.samples)

    def __call__(self, step: Step) -> Tensor:
        attack, task = step.attack, step.task
        if isinstance(attack, Attack):
            task = attack.meant
            # The mean is an output already, of which nothing is left to read.
            attack = replace(attack, task=replace(task, output=unchanged), output=unchanged)
        adversarial = step.adversarial(attack, model=Predictor(bare(step.model), self.samples, task))
        draws = step.logits(*[adversarial] * self.samples)
        return step.loss(mean_output(torch.stack(draws), step.task))
