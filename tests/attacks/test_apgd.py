"""APGD against pyautoattack's, AutoAttack itself, transfer and random noise."""

import pytest
import torch
import torch.nn.functional as F
from attacks_models import accuracy, digits, trained
from torch import nn

from stocnoise.attacks import APGD, PGD, AutoAttack, RandomNoise, Transfer
from stocnoise.attacks.apgd import _checkpoints
from stocnoise.attacks.ball import Ball
from stocnoise.attacks.losses import cross_entropy, dlr

X, Y = digits()[2:]


@pytest.fixture
def exact():
    """A robust network in float64, where rounding turns hardly a gradient's sign; the library's tensors follow it."""
    model = trained(adversarial=True).double()
    torch.set_default_dtype(torch.float64)
    yield model
    torch.set_default_dtype(torch.float32)


class Watch(nn.Module):
    """A model that keeps the points it is asked about, and its answers."""

    def __init__(self, model):
        super().__init__()
        self.model, self.points, self.answers = model, [], []

    def forward(self, x):
        answer = self.model(x)
        self.points.append(x.detach().clone())
        self.answers.append(answer.argmax(1))
        return answer


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
def test_equals_pyautoattacks_apgd_within_one_percent(loss, name, norm, eps, exact, monkeypatch):
    """From the same starts, and point by point as far as both are defined alike: to the first checkpoint.

    There the library takes the loss before the first step for 0.
    """
    library = pytest.importorskip("pyautoattack.autopgd_base")
    x, steps, first_checkpoint = X.double(), 100, 22
    starts = [Ball(x, eps, norm).random(torch.Generator().manual_seed(seed)) for seed in range(2)]
    ours, theirs = Watch(exact), [Watch(exact) for _ in starts]
    queue = iter(starts)
    monkeypatch.setattr(Ball, "random", lambda *_: next(queue))
    right = exact(APGD(eps=eps, steps=steps, loss=loss, norm=norm, restarts=2)(ours, x, Y)).argmax(1) == Y
    right_there = torch.ones_like(right)
    for start, watch in zip(starts, theirs, strict=True):
        attack = library.APGDAttack(watch, n_iter=steps, norm={"inf": "Linf", "l2": "L2"}[norm], eps=eps, loss=name)
        attack.init_hyperparam(x)
        right_there &= attack.attack_single_run(x, Y, x_init=start)[1]

    for watch, run in zip(theirs, (0, steps), strict=True):
        # A fooled row is free: where DLR stands at its maximum, its gradient is nothing but rounding.
        standing, apart = torch.ones_like(right), torch.zeros_like(right)
        for step in range(first_checkpoint + 1):
            apart |= standing & ((ours.points[run + step] - watch.points[step]).abs().flatten(1).amax(1) > 1e-6)
            standing &= watch.answers[step] == Y
        assert apart.double().mean() <= 0.01 and standing.double().mean() > 0.1
    assert 0.1 < right_there.double().mean() < 0.7
    assert abs(right.double().mean() - right_there.double().mean()) <= 0.01


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
    watch = Watch(model)
    found = APGD(eps=0.2, steps=15)(watch, X[:40], Y[:40])
    losses = torch.stack([F.cross_entropy(model(p), Y[:40], reduction="none") for p in watch.points])
    fooled = torch.stack([answer != Y[:40] for answer in watch.answers])
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
