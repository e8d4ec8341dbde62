"""From counts to a radius: σ·Φ⁻¹(p), p a lower bound of the probability of a class."""

from __future__ import annotations

import math


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """p with P(p ≤ true probability) ≥ 1 − α, of `hits` among `draws`: one-sided Clopper & Pearson (1934)."""
    from scipy.stats import beta

    return float(beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0


def radius_of(p: float, sigma: float) -> float:
    """σ·Φ⁻¹(p); 0 where p ≤ ½.

    If f(x + N(0, σ²I)) is a class with probability p or more, f's most probable class stays the same in this L2 ball
    around x: Cohen, Rosenfeld & Kolter, ICML 2019, theorem 1 with p_B = 1 − p. f may be random itself: the probability
    is then an average over its own noise, independent of the input's, and the theorem holds for functions into [0, 1].
    """
    from scipy.special import ndtri

    return sigma * float(ndtri(p)) if p > 0.5 else 0.0


def probability_for(radius: float, sigma: float) -> float:
    """Φ(r/σ): what a class needs for this radius."""
    from scipy.special import ndtr

    return float(ndtr(radius / sigma))


def fewest_draws(alpha: float) -> int:
    """The least n for which n draws that all agree give a radius above 0: α^(1/n) > ½."""
    return math.floor(math.log(alpha) / math.log(0.5)) + 1
