"""TRADES: the divergence between the answers to clean and to adversarial images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import Target
from stocnoise.checks import check_number
from stocnoise.tasks.task import unchanged
from stocnoise.training.divergence import attack_on, classes_of, kl_divergence
from stocnoise.training.step import Step

_NAME = 'objective "trades"'


@dataclass(frozen=True)
class Trades:
    """L(f(x), y) + β · mean KL(f(x) ‖ f(x')), x' maximising the same divergence.

    The attack's target is one draw of f(x), in eval mode, held for all its steps: a new draw at each step would move
    the goal. The loss takes f(x) and f(x') from one training pass.

    Args:
        beta: β, what robustness is worth.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019.

    Example:
        >>> history = stocnoise.finetune(student, loader, epochs=1, objective=stocnoise.Trades(beta=3), progress=False)
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta)

    def __call__(self, step: Step) -> Tensor:
        classes = classes_of(step.task, _NAME)
        loss = kl_divergence if classes is unchanged else lambda output, goal: kl_divergence(classes(output), goal)
        attack = attack_on(step, loss, _NAME)
        with attack_mode(step.model, attack.batch_norm):
            target = Target(step.model, step.x.dtype, eot=1, task=step.task, others=step.others).outputs(step.x)[0]
        adversarial = step.adversarial(attack, classes(target).log_softmax(1))
        on_clean, on_adversarial = step.logits(step.x, adversarial)
        goal = classes(on_clean.float()).log_softmax(1)
        return step.loss(on_clean) + self.beta * kl_divergence(classes(on_adversarial.float()), goal).mean()
