"""From counts to radii: known figures, coverage by simulation, an answer that holds whenever drawing stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from stocnoise.certification import bound, sequential


@pytest.mark.parametrize(
    ("hits", "draws", "radius"),
    [
        (100, 100, 1.50),
        (1000, 1000, 2.463),
        (10_000, 10_000, 3.199),
        (100_000, 100_000, 3.811),
        (990, 1000, 1.978),
        (950, 1000, 1.440),
    ],
)
def test_the_published_radii_at_alpha_of_a_thousandth(hits: int, draws: int, radius: float) -> None:
    p = bound.lower_bound(hits, draws, 0.001)
    assert bound.radius_of(p, 1.0) == pytest.approx(radius, abs=5.1e-3 if radius == 1.5 else 5.1e-4)
    assert bound.radius_of(p, 0.25) == pytest.approx(0.25 * bound.radius_of(p, 1.0))


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(("hits", "draws"), [(0, 50), (1, 50), (37, 50), (50, 50), (990, 1000)])
def test_the_bound_is_that_of_scipys_test(hits: int, draws: int, alpha: float) -> None:
    theirs = binomtest(hits, draws, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert bound.lower_bound(hits, draws, alpha) == pytest.approx(theirs, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("p", [0.55, 0.8, 0.99])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_covers(p: float, alpha: float) -> None:
    n = 200
    bounds = np.array([bound.lower_bound(k, n, alpha) for k in range(n + 1)])
    exact = binom.pmf(np.arange(n + 1), n, p)[bounds > p].sum()
    assert exact <= alpha
    drawn = np.random.default_rng(0).binomial(n, p, 100_000)
    assert (bounds[drawn] > p).mean() <= alpha + 6 * math.sqrt(alpha / 100_000)


def test_half_or_less_is_no_radius() -> None:
    assert bound.radius_of(0.5, 1.0) == bound.radius_of(0.2, 1.0) == 0.0
    assert bound.lower_bound(0, 10, 0.05) == 0.0
    fewest = bound.fewest_draws(0.001)
    assert fewest == 10
    assert bound.radius_of(bound.lower_bound(10, 10, 0.001), 1.0) > 0
    assert bound.radius_of(bound.lower_bound(9, 9, 0.001), 1.0) == 0


def test_a_radius_and_its_probability() -> None:
    assert bound.probability_for(0.25, 0.25) == pytest.approx(norm.cdf(1.0))


@pytest.mark.parametrize(("hits", "draws", "p"), [(0, 0, 0.8), (7, 7, 0.8), (30, 40, 0.6), (3, 40, 0.9)])
def test_the_evidence_is_the_integral_of_likelihoods(hits: int, draws: int, p: float) -> None:
    def mean_ratio(low: float, high: float) -> float:
        q = low + (high - low) * (np.arange(200_000) + 0.5) / 200_000
        return float(np.mean((q / p) ** hits * ((1 - q) / (1 - p)) ** (draws - hits)))

    assert math.exp(sequential.evidence(hits, draws, p)) == pytest.approx(mean_ratio(p, 1.0), rel=1e-4)
    assert math.exp(sequential.counter_evidence(hits, draws, p)) == pytest.approx(mean_ratio(0.0, p), rel=1e-4)


@pytest.mark.parametrize("gap", [0.0, 0.03])
@pytest.mark.parametrize("p", [0.6, 0.84, 0.97])
def test_it_is_rarely_ever_misled_at_whatever_draw_one_stops(p: float, gap: float) -> None:
    """Of sequences whose probability is p − gap, how many ever seem to be above p, and, of p + gap, below."""
    alpha, sequences, length = 0.05, 4000, 600
    enough = -math.log(alpha)
    above = np.array([[sequential.evidence(k, t, p) >= enough for k in range(length + 1)] for t in (*_looks(length),)])
    below = np.array(
        [[sequential.counter_evidence(k, t, p) >= enough for k in range(length + 1)] for t in _looks(length)]
    )
    generator = np.random.default_rng(0)
    for table, true in ((above, p - gap), (below, min(p + gap, 1.0))):
        hits = (generator.random((sequences, length)) < true).cumsum(1)[:, np.array(_looks(length)) - 1]
        misled = table[np.arange(len(_looks(length))), hits].any(1).mean()
        assert misled <= alpha + 5 * math.sqrt(alpha * (1 - alpha) / sequences)


def _looks(length: int) -> list[int]:
    return list(range(1, 60)) + list(range(60, length + 1, 10))


def test_the_fewest_draws_that_show_a_probability() -> None:
    for p, alpha in ((0.5, 0.05), (0.84, 0.001), (0.977, 0.001)):
        fewest = sequential.fewest_draws(p, alpha)
        assert sequential.evidence(fewest, fewest, p) >= -math.log(alpha)
        assert fewest == 1 or sequential.evidence(fewest - 1, fewest - 1, p) < -math.log(alpha)
    assert sequential.fewest_draws(0.84, 0.001) < 100, "of ten thousand that a fixed number would take"
