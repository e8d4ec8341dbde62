"""MART: adversarial training that weighs the examples which the model gets wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stocnoise.checks import check_number
from stocnoise.tasks.multiclass import as_labels
from stocnoise.training.divergence import classes_of, kl_divergence
from stocnoise.training.step import Step

_NAME = 'objective "mart"'


@dataclass(frozen=True)
class MART:
    """L(f(x'), y) − mean log(1 − max_{k≠y} p_k(x')) + β · mean KL(p(x) ‖ p(x')) · (1 − p_y(x)).

    p = softmax(f), x' adversarial by the run's attack. The first two terms are the boosted cross-entropy; L, the run's
    criterion, is −log p_y(x') by default. f(x) and f(x') come from one training pass, and the gradient goes through all
    of it, as in the authors' code. log(1 − p) is taken in the logarithm, so that no probability needs to be kept from
    1. For tasks with one class a row: "multiclass" (labels that are probabilities stand for their largest), "binary".

    Args:
        beta: β, what the divergence is worth; 5 in the paper.

    Raises:
        ValueError: a task without classes, or with several labels a row.

    Source: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020.

    Example:
        >>> step = stocnoise.Step(student, images, labels, attack=stocnoise.PGD(steps=2))
        >>> loss = stocnoise.MART(beta=5.0)(step)
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta)

    def __call__(self, step: Step) -> Tensor:
        classes = classes_of(step.task, _NAME)
        if not step.task.one_class:
            raise ValueError(f'{_NAME} needs a task with one class a row, which task={step.task} has not: use "trades"')
        labels = as_labels(step.y).long()
        on_clean, on_adversarial = step.logits(step.x, step.adversarial())
        z, attacked = classes(on_clean), classes(on_adversarial)
        nearest = attacked.detach().masked_fill(F.one_hot(labels, attacked.shape[1]).bool(), -torch.inf).argmax(1)
        boosted = step.loss(on_adversarial) - log_of_the_rest(attacked, nearest).mean()
        doubt = log_of_the_rest(z, labels).exp()
        return boosted + self.beta * (kl_divergence(attacked, z.log_softmax(1)) * doubt).mean()


def log_of_the_rest(logits: Tensor, k: Tensor) -> Tensor:
    """log(1 − softmax(z)_k) of each row (B,), for logits (B, K) and classes k (B,): −gap where p_k rounds to 1."""
    own = F.one_hot(k, logits.shape[1]).bool()
    return logits.log_softmax(1).masked_fill(own, -torch.inf).logsumexp(1)
