"""Attacks by name, at a stated budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from stocnoise.attacks.apgd import APGD
from stocnoise.attacks.autoattack import AutoAttack
from stocnoise.attacks.ball import Norm
from stocnoise.attacks.base import Attack
from stocnoise.attacks.baselines import RandomNoise, Transfer
from stocnoise.attacks.cw import CW
from stocnoise.attacks.decision import Boundary, HopSkipJump
from stocnoise.attacks.libraries import require
from stocnoise.attacks.losses import dlr, margin
from stocnoise.attacks.pgd import BIM, MIM, PGD
from stocnoise.attacks.square import Square

_NAMED: dict[str, Callable[[dict[str, Any], int, int], Attack]] = {
    "fgsm": lambda ball, steps, eot: BIM(**ball, steps=1, eot=eot),
    "bim": lambda ball, steps, eot: BIM(**ball, steps=steps, eot=eot),
    "pgd": lambda ball, steps, eot: PGD(**ball, steps=steps, eot=eot),
    "mim": lambda ball, steps, eot: MIM(**ball, steps=steps, eot=eot),
    "pgd-margin": lambda ball, steps, eot: PGD(**ball, steps=steps, eot=eot, loss=margin),
    "apgd": lambda ball, steps, eot: APGD(**ball, steps=steps, eot=eot),
    "apgd-dlr": lambda ball, steps, eot: APGD(**ball, steps=steps, eot=eot, loss=dlr),
    "cw": lambda ball, steps, eot: CW(steps=2 * steps, search_steps=5, eot=eot),
    "square": lambda ball, steps, eot: Square(**ball, eot=eot),
    "boundary": lambda ball, steps, eot: Boundary(),
    "boundary-raw": lambda ball, steps, eot: Boundary(noise="raw"),
    "hopskipjump": lambda ball, steps, eot: HopSkipJump(),
    "autoattack": lambda ball, steps, eot: AutoAttack(**ball, version="rand" if eot > 1 else "standard"),
    "random": lambda ball, steps, eot: RandomNoise(**ball),
}
_EXTRAS = {
    "boundary": ("foolbox", "foolbox"),
    "boundary-raw": ("foolbox", "foolbox"),
    "hopskipjump": ("foolbox", "foolbox"),
    "autoattack": ("pyautoattack", "autoattack"),
}

NAMES = (*_NAMED, "transfer")


def named_attack(name: str, *, norm: Norm, steps: int, eot: int, source: nn.Module | None = None) -> Attack:
    """The attack called `name`, with `steps` gradients of `eot` draws each where it takes gradients in a ball.

    Raises:
        ValueError: an unknown name, or "transfer" without a model to transfer from.
        ImportError: a library that the attack needs is not installed; the message says which extra brings it.
    """
    if name == "transfer":
        if source is None:
            raise ValueError("the attack 'transfer' needs a model to transfer from: transfer_from=teacher")
        return Transfer(source=source, attack=PGD(steps=steps, eot=eot), norm=norm)
    if name not in _NAMED:
        raise ValueError(f"unknown attack {name!r}: choose from {', '.join(NAMES)}, or pass an attack object")
    if name in _EXTRAS:
        require(*_EXTRAS[name])
    return _NAMED[name]({"norm": norm}, steps, eot)
