"""What a training step minimises: the simple objectives, and all that have a name."""

from __future__ import annotations

from torch import Tensor

from stocnoise.training.mart import MART
from stocnoise.training.mean_of_draws import Averaged
from stocnoise.training.step import Objective, Step
from stocnoise.training.trades import Trades


def clean(step: Step) -> Tensor:
    """L(f(x), y)."""
    (logits,) = step.logits(step.x)
    return step.loss(logits)


def at(step: Step) -> Tensor:
    """L(f(x'), y), x' adversarial. Source: Madry et al., ICLR 2018."""
    (logits,) = step.logits(step.adversarial())
    return step.loss(logits)


def mixed(step: Step) -> Tensor:
    """½ L(f(x), y) + ½ L(f(x'), y), both in one pass."""
    on_clean, on_adversarial = step.logits(step.x, step.adversarial())
    return (step.loss(on_clean) + step.loss(on_adversarial)) / 2


_NAMED: dict[str, Objective] = {
    "at": at,
    "trades": Trades(),
    "mixed": mixed,
    "clean": clean,
    "mart": MART(),
    "averaged": Averaged(),
}
NAMES = tuple(_NAMED)


def make_objective(choice: str | Objective) -> Objective:
    """The objective of that name, or the given one."""
    if isinstance(choice, type):
        raise ValueError(f"objective must be an instance, such as {choice.__name__}(), not the class")
    if callable(choice):
        return choice
    if not isinstance(choice, str) or choice not in _NAMED:
        raise ValueError(f"objective must be one of {', '.join(NAMES)}, or a function of a Step, not {choice!r}")
    return _NAMED[choice]
