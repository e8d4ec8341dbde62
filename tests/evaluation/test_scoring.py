"""ASR and its intervals."""

import math

import pytest
import torch
from attacks_models import digits, trained

from stocnoise.evaluation.rates import (
    Successes,
    any_successes,
    averaged_successes,
    difference,
    ratio,
    successes,
    vote_successes,
    wilson,
    worst_case,
)
from stocnoise.evaluation.scoring import Score, score


def drawn(p, draws, generator=None):
    """Draws of images that are classified correctly with probability p."""
    correct = torch.rand(len(p), draws, generator=generator) < p[:, None]
    return Score(correct, correct.float().mean(1) > 0.5)


def flags(*rows):
    correct = torch.tensor(rows, dtype=torch.bool)
    return Score(correct, correct.float().mean(1) > 0.5)


def test_asr_of_a_deterministic_model_is_a_conditional_frequency():
    clean, attacked = flags([1], [1], [1], [0]), flags([0], [1], [0], [0])
    assert successes(clean, attacked).rate.value == pytest.approx(2 / 3)


def test_asr_of_a_stochastic_model_weighs_images_by_their_clean_probability():
    clean, attacked = flags([1, 1], [1, 0], [0, 0]), flags([0, 1], [0, 0], [0, 0])
    # Σ p(1−q) / Σ p = (1·½ + ½·1) / (1 + ½)
    assert successes(clean, attacked).rate.value == pytest.approx(2 / 3)
    assert vote_successes(clean, attacked).rate.value == 1.0  # one image is voted right, and no longer
    assert any_successes(clean, attacked).rate.value == 1.0
    assert averaged_successes(clean, attacked).rate.value == 1.0


def test_nothing_correct_means_no_asr():
    clean = flags([0], [0])
    assert all(math.isnan(v) for v in successes(clean, clean).rate)


def test_wilson_has_its_known_values():
    # Wilson's interval for 0 of 10 and 5 of 10, Brown, Cai & DasGupta (2001).
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)


@pytest.mark.parametrize(
    ("images", "draws", "a", "b"),
    [(60, 1, 1.0, 4.0), (60, 8, 1.0, 4.0), (100, 32, 0.3, 0.3), (200, 1, 30.0, 1.5)],
    ids=["deterministic", "8 draws", "all or nothing", "rare"],
)
def test_interval_covers_the_truth_at_95_percent(images, draws, a, b):
    # A population of images with clean probabilities near one and q ~ Beta; new images and new draws each time.
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    q = torch.distributions.Beta(torch.tensor(a), torch.tensor(b))
    p = torch.distributions.Beta(torch.tensor(20.0), torch.tensor(1.0))
    truth = 1 - a / (a + b)
    covered = 0
    for _ in range(800):
        clean = drawn(p.sample((images,)), draws, generator)
        rate = successes(clean, drawn(q.sample((images,)), draws, generator)).rate
        covered += rate.low <= truth <= rate.high
    assert 0.925 <= covered / 800 <= 0.985


def test_interval_narrows_with_draws_but_not_below_what_images_allow():
    q = torch.cat([torch.zeros(50), torch.ones(50)])
    widths = []
    for draws in (1, 64, 4096):
        rate = ratio(1 - drawn(q, draws).p, torch.ones(100))
        widths.append(rate.high - rate.low)
    assert widths[0] == pytest.approx(widths[2], rel=0.05)  # images are all or nothing: draws tell nothing
    noise = [ratio(1 - drawn(torch.full((100,), 0.5), draws).p, torch.ones(100)) for draws in (1, 64)]
    assert (noise[1].high - noise[1].low) < 0.2 * (noise[0].high - noise[0].low)


def test_worst_case_is_not_fooled_by_the_luck_of_many_attacks():
    # Ten attacks that all leave q = 0.5: the smallest of ten estimates is far below it, the worst case is not.
    clean = flags(*[[1] * 16] * 400)
    attacked = [drawn(torch.full((400,), 0.5), 16) for _ in range(10)]
    naive = 1 - torch.stack([each.p for each in attacked]).amin(0).mean()
    honest, _, _ = worst_case(clean, attacked)
    assert naive > 0.65
    assert honest.rate.value == pytest.approx(0.5, abs=0.03)


def test_worst_case_takes_the_best_attack_of_each_image():
    clean = flags([1, 1], [1, 1])
    hit, chosen, left = worst_case(clean, [flags([0, 0], [1, 1]), flags([1, 1], [0, 0])])
    assert hit.rate.value == 1.0 and chosen.tolist() == [0, 1] and left.p.tolist() == [0, 0]
    single, _, _ = worst_case(flags([1], [1]), [flags([0], [1]), flags([1], [0])])
    assert single.rate.value == 1.0


def test_paired_difference_is_sharper_than_two_intervals():
    torch.manual_seed(0)
    q = torch.rand(300)
    clean = flags(*[[1] * 8] * 300)
    first, second = (successes(clean, drawn((q - shift).clamp(0, 1), 8)) for shift in (0.1, 0.0))
    value, error = difference(first, second)
    assert abs(value - 0.095) < 2.5 * error
    assert 1.96 * error < 0.5 * (first.rate.high - first.rate.low)


def test_difference_of_the_same_is_zero():
    hit = Successes(torch.rand(10).double(), torch.ones(10).double())
    assert difference(hit, hit) == (0.0, 0.0)


def test_score_draws_anew_and_checks_its_input():
    model, (x, y) = trained(gamma=0.3), (t[:40] for t in digits()[2:])
    found = score(model, x, y, 12)
    assert found.correct.shape == (40, 12) and found.averaged.shape == (40,)
    assert 0.85 < found.correct.float().mean() < 1.0
    assert (found.correct.float().mean(1) % 1 > 0).any()
    with pytest.raises(ValueError, match="10 classes"):
        score(model, x, y + 10, 2)
