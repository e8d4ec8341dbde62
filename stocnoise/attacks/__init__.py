"""Attacks on stochastic (and deterministic) classifiers."""

from stocnoise.attacks.apgd import APGD
from stocnoise.attacks.autoattack import AutoAttack
from stocnoise.attacks.base import Attack, BallAttack, MinimumNormAttack, overshoot
from stocnoise.attacks.baselines import RandomNoise, Transfer
from stocnoise.attacks.cw import CW
from stocnoise.attacks.decision import Boundary, HopSkipJump
from stocnoise.attacks.pgd import BIM, MIM, PGD
from stocnoise.attacks.square import Square
from stocnoise.normalization import Normalized, normalized

__all__ = [
    "APGD",
    "BIM",
    "CW",
    "MIM",
    "PGD",
    "Attack",
    "AutoAttack",
    "BallAttack",
    "Boundary",
    "HopSkipJump",
    "MinimumNormAttack",
    "Normalized",
    "RandomNoise",
    "Square",
    "Transfer",
    "normalized",
    "overshoot",
]
