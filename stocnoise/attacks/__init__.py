"""Attacks on stochastic (and deterministic) classifiers."""

from stocnoise.attacks.base import Attack
from stocnoise.attacks.normalize import Normalized, normalized
from stocnoise.attacks.pgd import BIM, MIM, PGD

__all__ = ["BIM", "MIM", "PGD", "Attack", "Normalized", "normalized"]
