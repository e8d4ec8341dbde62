"""APGD against pyautoattack's, AutoAttack itself, transfer and random noise."""

import pytest
import torch
import torch.nn.functional as F
from attacks_models import accuracy, digits, trained
from torch import nn

from stocnoise.attacks import APGD, PGD, AutoAttack, RandomNoise, Transfer
from stocnoise.attacks.apgd import _checkpoints
from stocnoise.attacks.losses import cross_entropy, dlr

X, Y = digits()[2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "name", "norm", "eps"),
    [
        (cross_entropy, "ce", "inf", 0.2),
        (dlr, "dlr", "inf", 0.2),
        (cross_entropy, "ce", "l2", 0.8),
        (dlr, "dlr", "l2", 0.8),
    ],
)
def test_equals_pyautoattacks_apgd_within_one_percent(loss, name, norm, eps):
    library = pytest.importorskip("pyautoattack.autopgd_base")
    model = trained(adversarial=True)
    ours, theirs = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        ours.append(accuracy(model, APGD(eps=eps, steps=30, loss=loss, norm=norm, restarts=2)(model, X, Y), Y))
        attack = library.APGDAttack(
            model, n_iter=30, n_restarts=2, norm={"inf": "Linf", "l2": "L2"}[norm], eps=eps, loss=name, seed=seed
        )
        theirs.append(accuracy(model, attack.perturb(X, Y), Y))
    assert 0.1 < sum(theirs) / 3 < 0.7
    assert abs(sum(ours) - sum(theirs)) / 3 <= 0.01


def test_checkpoints_are_those_of_the_paper():
    # Croce & Hein, section 3.3: p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps.
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("eot", [1, 4])
@pytest.mark.slow
def test_beats_pgd_of_the_same_budget_or_equals_it(eot):
    model = trained(adversarial=True, gamma=0.3 if eot > 1 else None)
    x, y = X[:120], Y[:120]
    ours, pgd = (accuracy(model, attack(model, x, y), y, 16) for attack in (APGD(**_at(eot)), PGD(**_at(eot))))
    assert ours <= pgd + 0.03


def _at(eot):
    return {"eps": 0.15, "steps": 20, "eot": eot}


@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.1), ("l2", 0.7)])
def test_stays_in_the_ball(norm, eps):
    for attack in (APGD(eps=eps, norm=norm, steps=8), RandomNoise(eps=eps, norm=norm)):
        delta = attack(trained(), X[:32], Y[:32]) - X[:32]
        assert delta.flatten(1).norm(p=torch.inf if norm == "inf" else 2, dim=1).max() <= eps * (1 + 1e-5)
        assert delta.abs().max() > eps / 10


def test_the_best_point_has_the_highest_mean_loss_of_those_that_fool():
    model = trained(adversarial=True)
    points = []

    class Watch(nn.Module):
        def forward(self, x):
            points.append(x.detach().clone())
            return model(x)

    found = APGD(eps=0.2, steps=15)(Watch(), X[:40], Y[:40])
    losses = torch.stack([F.cross_entropy(model(p), Y[:40], reduction="none") for p in points])
    fooled = torch.stack([model(p).argmax(1) != Y[:40] for p in points])
    best = torch.where(fooled.any(0), losses.where(fooled, -torch.inf).amax(0), losses.amax(0))
    torch.testing.assert_close(F.cross_entropy(model(found), Y[:40], reduction="none"), best)


def test_random_noise_has_the_norm_of_its_ball_and_hardly_hurts():
    grey = torch.full((20, 1, 8, 8), 0.5)
    y = torch.zeros(20, dtype=torch.long)
    assert torch.allclose((RandomNoise(eps=0.1)(trained(), grey, y) - grey).abs(), torch.tensor(0.1))
    l2 = RandomNoise(eps=0.3, norm="l2")(trained(), grey, y) - grey
    assert torch.allclose(l2.flatten(1).norm(dim=1), torch.tensor(0.3))
    model = trained()
    assert accuracy(model, RandomNoise(eps=0.15)(model, X, Y), Y) > accuracy(model, PGD(eps=0.15)(model, X, Y), Y) + 0.2


def test_transfer_attacks_the_source_alone():
    teacher, student = trained(), trained(adversarial=True)

    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("asked")

    attack = Transfer(source=teacher, attack=PGD(steps=5, random_start=False), eps=0.1)
    found = attack(Untouchable(), X, Y)
    torch.testing.assert_close(found, PGD(eps=0.1, steps=5, random_start=False)(teacher, X, Y))
    assert accuracy(teacher, found, Y) < accuracy(student, found, Y)


@pytest.mark.slow
def test_autoattack_rand_really_runs_and_claims_more_than_fresh_draws_confirm():
    pytest.importorskip("pyautoattack")
    model, x, y = trained(adversarial=True, gamma=0.3), X[:16], Y[:16]
    state = torch.get_rng_state()
    found = AutoAttack(eps=0.15)(model, x, y, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert (found - x).abs().max() <= 0.15 + 1e-6
    moved = (found != x).flatten(1).any(1)  # its own verdict: a point that fooled one draw
    claimed, fresh = moved.float().mean().item(), 1 - accuracy(model, found, y, 64)
    assert 0 < fresh < claimed


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"stocnoise\[autoattack\]"):
        AutoAttack(eps=0.1)(trained(), X[:2], Y[:2])


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (APGD, {"steps": 0}, "steps"),
        (APGD, {"rho": 1.5}, "rho"),
        (AutoAttack, {"version": "fast"}, "version"),
        (RandomNoise, {"eps": float("nan")}, "eps"),
    ],
)
def test_bad_settings_are_named(attack, settings, message):
    with pytest.raises(ValueError, match=message):
        attack(**settings)
