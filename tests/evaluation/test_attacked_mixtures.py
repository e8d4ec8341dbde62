"""A mixture is attacked through itself, past its softmaxes and through each half; the bound is told beside it."""

from __future__ import annotations

import pytest
import torch
from attacks_models import digits, trained
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, Mixture, evaluate
from stocnoise.attacks.losses import margin
from stocnoise.evaluation import Averaged, Budget, Predictor, Strongest
from stocnoise.mixture import Blend
from stocnoise.predictors import margin_bound, surrogates

X, Y = (t[:40] for t in digits()[2:])
FAST = {"draws": 8, "progress": False, "checks": False}
SMALL = Strongest((Budget(6, 2, ("apgd-margin", "noise off", "parent")), Budget(8, 2, ("apgd", "apgd-margin"))))
WAYS = ["k = T = 1", "student alone", "teacher alone"]


def mixture(scale: float = 8.0, weight: float = 0.55, gamma: float | None = None) -> Mixture:
    student = trained(adversarial=True, gamma=gamma)
    return stocnoise.mix(student, trained(), weight=weight, scale=scale, temperature=0.05).eval()


@pytest.fixture(scope="module")
def masked():
    return evaluate(mixture(1e4), [(X, Y)], [SMALL, APGD(steps=28, loss=margin)], 0.2, **FAST)


def test_what_a_huge_k_hides_is_found_by_the_other_ways(masked):
    own, strongest = masked["apgd", 0.2], masked["strongest", 0.2]
    assert own.asr.value < 0.5 and strongest.asr.value > own.asr.value + 0.15
    first = {each.attack: each for each in strongest.stages[0].candidates}
    assert list(first) == ["apgd-margin", *WAYS]
    assert sum(first[name].won for name in WAYS) >= 4
    assert [each.attack for each in strongest.stages[1].candidates] == ["apgd", "apgd-margin", *WAYS]
    assert "student alone" in strongest.settings and "k = T = 1" in str(masked)


def test_the_ways_have_the_budget_of_the_stage(masked):
    gradients = {each.attack: each.gradients for each in masked["strongest", 0.2].stages[0].candidates}
    assert gradients == dict.fromkeys(["apgd-margin", *WAYS], 12)


def test_the_report_tells_the_bound_beside_the_attack(masked, tmp_path):
    entry = masked["strongest", 0.2]
    assert 0 < entry.more["margin_bound"] <= entry.robust_accuracy.value
    assert entry.to_dict()["margin_bound"] == entry.more["margin_bound"]
    assert "at least" in str(masked) and "no teacher can overrule it" in str(masked)
    assert "margin_bound" not in masked["apgd", 0.2].more
    masked.to_html(tmp_path / "r.html")
    assert "By the margin bound it is at least" in (tmp_path / "r.html").read_text()


def test_the_bound_alone_is_an_evaluation_of_its_own():
    whole = mixture()
    assert evaluate(whole.margin_bound(), [(X, Y)], SMALL, 0.05, **FAST)["strongest", 0.05].robust_accuracy.value > 0.5
    worst = evaluate(whole.margin_bound(), [(X, Y)], SMALL, 0.2, **FAST)["strongest", 0.2].robust_accuracy.value
    for teacher in (trained(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        other = Mixture(whole.student, teacher, whole.blend).eval()
        assert evaluate(other, [(X, Y)], SMALL, 0.2, **FAST)["strongest", 0.2].robust_accuracy.value >= worst - 0.1


def test_a_mixture_with_noise_is_attacked_on_draws_and_its_teacher_by_restarts():
    found = evaluate(mixture(gamma=0.3), [(X[:16], Y[:16])], SMALL, 0.2, **FAST)
    entry = found["strongest", 0.2]
    gradients = {each.attack: each.gradients for each in entry.stages[0].candidates}
    assert gradients == dict.fromkeys(["apgd-margin", *WAYS], 12) | {"noise off": 6}
    assert entry.more["margin_bound"] <= entry.robust_accuracy.value + 0.1


def test_an_average_in_a_mixture_is_attacked_through_itself():
    student = Averaged(trained(adversarial=True, gamma=0.3), 4)
    model = stocnoise.mix(student, trained(), weight=0.6, scale=4.0).eval()
    attack = Strongest((Budget(3, 8, ("apgd-margin", "noise off", "frozen draw")),))
    entry = evaluate(model, [(X[:16], Y[:16])], attack, 0.2, **FAST)["strongest", 0.2]
    gradients = {each.attack: each.gradients for each in entry.stages[0].candidates}
    # 8 draws a gradient are two answers; one draw is all that is left where the noise is off or frozen.
    assert gradients == {"apgd-margin": 6, "noise off": 12, "frozen draw": 12} | {
        "k = T = 1": 6,
        "student alone": 6,
        "teacher alone": 24,
    }


def test_the_ways_lead_through_what_stands_around_a_mixture():
    inside = mixture()
    around = torch.compile(stocnoise.normalized(stocnoise.with_input_noise(inside, 1e-6), 0.5, 0.5))
    ways = surrogates(around)
    assert list(ways) == WAYS
    x = (X + 1) / 2
    with torch.no_grad():
        torch.testing.assert_close(ways["teacher alone"](x), inside.teacher(X), atol=1e-3, rtol=1e-3)
        plain = Mixture(inside.student, inside.teacher, Blend(0.55))
        torch.testing.assert_close(ways["k = T = 1"](x), plain(X), atol=1e-3, rtol=1e-3)
        bound = margin_bound(around)
        assert bound is not None
        torch.testing.assert_close(bound(x), inside.margin_bound()(X), atol=1e-2, rtol=1e-2)
    averaged = surrogates(Averaged(inside, 2))
    assert list(averaged) == WAYS and all(isinstance(each, Averaged) for each in averaged.values())
    assert surrogates(trained()) == {} and margin_bound(trained()) is None


def test_mean_and_std_given_to_evaluate_leave_nothing_out():
    entry = evaluate(mixture(), [(X[:8], Y[:8])], SMALL, 0.2, mean=0.0, std=1.0, **FAST)["strongest", 0.2]
    assert [each.attack for each in entry.stages[0].candidates] == ["apgd-margin", *WAYS]
    assert "margin_bound" in entry.more


@pytest.mark.slow
def test_compiled_it_is_attacked_the_same_ways():
    plain, compiled = mixture(), mixture()
    found = evaluate(torch.compile(compiled, backend="eager"), [(X[:8], Y[:8])], SMALL, 0.2, **FAST)["strongest", 0.2]
    expected = evaluate(plain, [(X[:8], Y[:8])], SMALL, 0.2, **FAST)["strongest", 0.2]
    assert [each.attack for each in found.stages[0].candidates] == ["apgd-margin", *WAYS]
    assert found.robust_accuracy.value == pytest.approx(expected.robust_accuracy.value, abs=0.13)


def test_a_predictor_of_ones_own_names_its_ways():
    class Rounded(Predictor):
        """Whose own gradient is zero."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return (self.model(x) * 4).round() / 4

        def surrogates(self) -> dict[str, nn.Module]:
            return {"not rounded": self.model}

    model = Rounded(trained()).eval()
    entry = evaluate(model, [(X, Y)], SMALL, 0.2, **FAST)["strongest", 0.2]
    assert [each.attack for each in entry.stages[0].candidates] == ["apgd-margin", "not rounded"]
    assert entry.asr.value > 0.8 and "margin_bound" not in entry.more


def test_the_checks_warn_of_a_plain_attack_that_is_led_astray():
    found = evaluate(mixture(1e4), [(X, Y)], "pgd", 0.2, steps=10, draws=8, progress=False)
    assert any("with the gradient of student alone succeeds" in warning for warning in found.warnings)


def test_it_goes_on_where_it_was_killed(tmp_path):
    batches = [(X[:8], Y[:8]), (X[8:16], Y[8:16])]
    settings = FAST | {"path": tmp_path / "r.json", "resume": True}
    whole = evaluate(mixture(), batches, SMALL, 0.2, **settings)
    again = evaluate(mixture(), batches, SMALL, 0.2, **settings)
    assert again["strongest", 0.2].more == whole["strongest", 0.2].more
    with pytest.raises(ValueError, match="other model"):
        evaluate(mixture(weight=0.9), batches, SMALL, 0.2, **settings)


def test_a_class_at_every_pixel():
    torch.manual_seed(0)
    halves = (nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)) for _ in range(2))
    model = stocnoise.mix(*halves, weight=0.6, scale=4.0, task="segmentation").eval()
    found = evaluate(model, [(X, (X[:, 0] * 2.9).long())], SMALL, 0.1, task="segmentation", **FAST)
    entry = found["strongest", 0.1]
    assert [each.attack for each in entry.stages[0].candidates] == ["apgd", *WAYS]
    assert 0 <= entry.more["margin_bound"] <= entry.robust_accuracy.value


def test_a_certificate_of_a_mixture():
    smoothed = stocnoise.with_input_noise(mixture(1.0), 0.1)
    certificate = stocnoise.certify(smoothed.eval(), [(X[:4], Y[:4])], n0=10, n=100, progress=False)
    assert certificate.settings["sigma"] == pytest.approx(0.1)
