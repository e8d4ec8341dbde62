"""How far the training attack may go while a run begins."""

from __future__ import annotations

from dataclasses import dataclass

from stocnoise.attacks import Attack, BallAttack
from stocnoise.checks import check_number, check_share


@dataclass(frozen=True)
class EpsSchedule:
    """ε of the training attack grows in a line over the first epochs: after t epochs (a + (1 − a)·min(t/n, 1))·ε.

    t counts parts of an epoch, so that ε grows with every step and never jumps. What an attack has in units of ε, as
    an explicit step size, grows along; an attack that an objective brings itself stays as it is. Transformers trained
    at the whole ε from the first step may never learn.

    `finetune(..., eps=schedule)` does it; in a loop of one's own a call gives the attack of the moment:

        schedule = stocnoise.EpsSchedule(epochs=2)
        for epoch in range(10):
            for i, (x, y) in enumerate(loader):
                x = schedule(attack, epoch + i / len(loader))(student, x, y)
                ...                      # train

    Args:
        epochs: n, above 0; a part of an epoch too.
        init: a, the share of ε it begins with, from 0 to 1. With 0 the first step trains on clean inputs.

    Source: Debenedetti, Sehwag, Mittal, "A Light Recipe to Train Robust Vision Transformers", SaTML 2023, from 0 and
    epoch by epoch; step by step in the code of de Jorge et al., NeurIPS 2022, for SVHN.

    Example:
        >>> schedule = stocnoise.EpsSchedule(epochs=2)
        >>> schedule(stocnoise.PGD(eps=0.1), 0.5).eps
        0.025
    """

    epochs: float
    init: float = 0.0

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, above=0)
        check_share("init", self.init)

    def __call__(self, attack: Attack, epochs: float) -> BallAttack:
        """`attack` as it is once that many epochs are over; from n epochs on, the attack itself.

        Raises:
            ValueError: it is no attack within an ε, or `epochs` no number of them.
        """
        if not isinstance(attack, BallAttack):
            raise ValueError(f"EpsSchedule needs an attack within eps, such as stocnoise.PGD(eps=…), not {attack}")
        check_number("epochs", epochs)
        if epochs >= self.epochs:
            return attack
        return attack.scaled(self.init + (1 - self.init) * epochs / self.epochs)
