"""One-step attacks for training: against the formulas of their papers, in float64; and where they may not measure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attacks_models import accuracy, digits, trained
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, BIM, PGD, RandomNoise, Transfer
from stocnoise.attacks.ball import norms
from stocnoise.training.wording import in_words

X, Y = (t[:16] for t in digits()[2:])
EPS = 0.1
BY_FEATURE = torch.linspace(0, 0.2, 64, dtype=torch.float64).view(1, 8, 8)


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), Y, reduction="sum").backward()
    assert x.grad is not None
    return x.grad


def uniform(x: Tensor, radius: float | Tensor) -> Tensor:
    """x and noise uniform in ±radius, by the draw that the seed gives, within [0, 1]."""
    torch.manual_seed(5)
    return (x + (2 * torch.rand(x.shape, dtype=x.dtype) - 1) * radius).clamp(0, 1)


def after_seeding(attack: PGD, model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(5)
    return attack(model, x, Y)


@pytest.mark.parametrize("eps", [EPS, torch.tensor(EPS), BY_FEATURE], ids=["number", "0-dim", "by feature"])
def test_single_step_is_n_fgsm(eps: float | Tensor) -> None:
    # de Jorge et al., algorithm 1 with k = 2 and α = ε: noise, one step, only the range of pixels clipped.
    model, x = trained().double(), X.double()
    noisy = uniform(x, 2 * eps)
    expected = (noisy + eps * gradient(model, noisy).sign()).clamp(0, 1)
    found = after_seeding(PGD.single_step(eps), model, x)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    assert ((found - x).abs() > 1.5 * eps + 1e-6).any(), "it was clipped to the ball"
    assert ((found - x).abs() <= 3 * eps + 1e-6).all()


@pytest.mark.parametrize("eps", [EPS, BY_FEATURE], ids=["number", "by feature"])
def test_fgsm_rs_follows_wong_et_al(eps: float | Tensor) -> None:
    model, x = trained().double(), X.double()
    noisy = uniform(x, eps)
    ahead = noisy + 1.25 * eps * gradient(model, noisy).sign()
    expected = torch.clamp(ahead, x - eps, x + eps).clamp(0, 1)
    torch.testing.assert_close(after_seeding(PGD.fgsm_rs(eps), model, x), expected, atol=1e-9, rtol=0)


def test_a_single_step_in_l2() -> None:
    # Uniform in the L2 ball of radius 2ε, one step of length ε along the gradient.
    model, x = trained().double(), X.double() * 0.2 + 0.4  # far from the range's ends
    started = after_seeding(dataclasses.replace(PGD.single_step(EPS, norm="l2"), step_size=1e-12), model, x)
    lengths = norms(started - x, "l2")
    assert (lengths <= 2 * EPS).all() and (lengths > EPS).any()
    slope = gradient(model, started)
    expected = started + EPS * slope / norms(slope, "l2").view(-1, 1, 1, 1)
    found = after_seeding(PGD.single_step(EPS, norm="l2"), model, x)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_bounds_and_mask_hold_where_the_ball_does_not() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    attack = PGD.single_step(0.4, bounds=(0.0, 1.1), mask=mask)
    found = after_seeding(attack, trained(), X)
    assert torch.equal(found[:, :, 4:], X[:, :, 4:])
    assert found.min() == 0 and found.max() == torch.tensor(1.1)
    assert ((found - X)[:, :, :4].abs() > 0.41).any()


def test_steps_without_clipping_go_on_outside() -> None:
    found = BIM(eps=0.05, steps=4, step_size=0.05, clip=False)(trained(), X, Y)
    assert (found - X).abs().max() == pytest.approx(0.2, abs=1e-6)


def test_a_wider_start_is_projected_by_the_first_step() -> None:
    found = after_seeding(PGD(eps=EPS, steps=1, start=3.0), trained(), X)
    assert (found - X).abs().max() <= EPS + 1e-6


def test_other_tasks_and_draws() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    found = PGD.single_step(EPS, task="binary", eot=3)(model, X, (Y > 4).float())
    assert ((found - X).abs() > EPS + 1e-6).any()


@pytest.mark.parametrize("make", [PGD.single_step, PGD.fgsm_rs])
def test_it_costs_one_gradient(make: Any) -> None:
    model, passes = trained(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    found = make(EPS)(model, X, Y)
    assert len(passes) == 1
    assert accuracy(model, found, Y) < accuracy(model, X, Y) - 0.2


def test_no_radius_is_no_change() -> None:
    for eps in (0.0, torch.zeros(1, 8, 8)):
        for attack in (PGD.single_step(eps), PGD.fgsm_rs(eps)):
            assert torch.equal(attack(trained(), X, Y), X)


def test_the_settings_are_shown_where_they_are_unusual() -> None:
    assert "start=2.0, clip=False" in str(PGD.single_step())
    assert "start=2.0, clip=False" in in_words(PGD.single_step())
    for told in (str(PGD()), in_words(PGD()), str(PGD.fgsm_rs())):  # by which earlier checkpoints know a run
        assert ", start=" not in told and "clip" not in told


@pytest.mark.parametrize("settings", [{"start": 0.0}, {"start": -1.0}, {"start": 2.0, "random_start": False}])
def test_bad_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^start"):
        PGD(**settings)


@pytest.mark.parametrize("eps", [None, -0.1, "8/255", True])
def test_what_is_no_eps_is_refused(eps: Any) -> None:
    with pytest.raises(ValueError, match="eps"):
        PGD.single_step(eps)


@pytest.mark.parametrize("attack", [PGD.single_step(EPS), Transfer(source=trained(), attack=PGD(clip=False))])
def test_what_leaves_the_ball_measures_nothing(attack: stocnoise.attacks.BallAttack) -> None:
    with pytest.raises(ValueError, match="clip=True"):
        stocnoise.evaluate(trained(), [(X, Y)], [attack], [EPS], progress=False)


def test_scaled_shrinks_all_that_is_in_units_of_eps() -> None:
    assert PGD(eps=0.1).scaled(0.5) == PGD(eps=0.05)
    assert PGD(eps=0.1, step_size=0.02).scaled(0.5) == PGD(eps=0.05, step_size=0.01)
    assert PGD.single_step(0.1).scaled(0.5) == PGD.single_step(0.05)
    assert PGD(eps=0.1, step_size=0.02).scaled(0.0).step_size == 0
    assert APGD(eps=0.1, rho=0.5).scaled(0.5) == APGD(eps=0.05, rho=0.5)
    assert RandomNoise(eps=0.1).scaled(0.5) == RandomNoise(eps=0.05)
    by_feature = PGD.fgsm_rs(BY_FEATURE).scaled(0.5)
    assert torch.equal(torch.as_tensor(by_feature.eps), BY_FEATURE / 2) and by_feature.step_size == 1.25
    source = nn.Linear(1, 1)
    transfer = Transfer(source=source, attack=PGD(step_size=0.02), eps=0.1).scaled(0.5)
    assert transfer.eps == 0.05 and isinstance(transfer.attack, PGD) and transfer.attack.step_size == 0.01
