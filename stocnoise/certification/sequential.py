"""Is a probability above p? An answer that holds whenever the drawing stops, which may depend on what was drawn."""

from __future__ import annotations

import math


def evidence(hits: int, draws: int, p: float) -> float:
    """log ∫_p^1 q^k (1−q)^(t−k) dq/(1−p) − log p^k (1−p)^(t−k), k `hits` among t `draws`.

    The likelihood of a probability uniform on (p, 1) against that of p. If the true probability is p or less, its
    exponential is a supermartingale that begins at 1, so with probability 1 − α or more it never reaches 1/α (Ville):
    at any stopping time `evidence ≥ log 1/α` shows a probability above p at level α. All p that it does not rule out
    are a confidence sequence.

    Source: Robbins, Ann. Math. Stat. 1970; for coins Howard, Ramdas, McAuliffe & Sekhon, Ann. Stat. 2021; for radii
    Voráček, NeurIPS 2024.
    """
    from scipy.special import betaln
    from scipy.stats import beta

    a, b = 1 + hits, 1 + draws - hits
    return float(betaln(a, b) + beta.logsf(p, a, b) - math.log1p(-p)) - _log_likelihood(hits, draws, p)


def counter_evidence(hits: int, draws: int, p: float) -> float:
    """The same for a probability below p, uniform on (0, p)."""
    return evidence(draws - hits, draws, 1 - p)


def fewest_draws(p: float, alpha: float) -> int:
    """The least t for which t draws that all agree show a probability above p."""
    enough = -math.log(alpha)
    high = 1
    while evidence(high, high, p) < enough:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if evidence(middle, middle, p) >= enough else (middle, high)
    return high


def _log_likelihood(hits: int, draws: int, p: float) -> float:
    return hits * math.log(p) + (draws - hits) * math.log1p(-p)
