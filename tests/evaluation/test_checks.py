"""What looks robust and is not must be flagged; what is, must not."""

import pytest
import torch
from attacks_models import SmallNet, digits, trained
from torch import nn

import stocnoise
from stocnoise.attacks import BallAttack
from stocnoise.evaluation.attack_checks import entry_warnings
from stocnoise.evaluation.measured import Entry
from stocnoise.evaluation.rates import Rate, Successes
from stocnoise.evaluation.scoring import Score

X, Y = (t[:96] for t in digits()[2:])


class Around(nn.Module):
    """A function of pixels before, or of logits after, a model."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after
        self.eval()

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def warnings_of(model, attacks="pgd", eps=(0.1, 0.2), **settings):
    settings = {"eot": 4, "steps": 10, "draws": 16, "progress": False} | settings
    return stocnoise.evaluate(model, [(X, Y)], attacks, eps, **settings).warnings


def test_a_gradient_killer_is_flagged():
    found = warnings_of(Around(trained(), before=lambda x: (x * 16).round() / 16))
    assert any("gradient of the logits" in w and "zero" in w for w in found)
    assert any("any image at all" in w for w in found)


def test_a_gradient_killer_in_the_middle_is_flagged():
    class Rounded(nn.Module):
        def forward(self, x):
            return (x * 8).round() / 8

    model = SmallNet(lambda channels: Rounded())
    model.load_state_dict(trained().state_dict())
    assert any("zero" in w for w in warnings_of(model.eval()))


def test_noise_on_the_logits_is_flagged():
    found = warnings_of(Around(trained(), after=lambda z: z + 3 * torch.randn_like(z)))
    assert any("added to the logits" in w for w in found)


@pytest.mark.slow
def test_noise_on_the_logits_shows_in_the_boundary_attack_too():
    pytest.importorskip("foolbox")
    model = Around(trained(), after=lambda z: z + 2 * torch.randn_like(z))
    report = stocnoise.evaluate(model, [(X[:32], Y[:32])], "boundary", 0.2, draws=16, progress=False, checks=False)
    assert report["boundary", None].asr.value > report["boundary-raw", None].asr.value + 0.2


def test_a_plain_adversarially_trained_network_is_not_flagged():
    teacher = trained()
    found = warnings_of(
        trained(adversarial=True), ["bim", "pgd", "mim"], (0.1, 0.15, 0.2), steps=20, transfer_from=teacher
    )
    assert found == []


@pytest.mark.slow
def test_an_adversarially_trained_student_is_not_flagged():
    assert warnings_of(trained(adversarial=True, gamma=0.1), steps=20, eps=(0.15,)) == []


def test_an_undefended_network_is_not_flagged():
    assert warnings_of(trained(), steps=20) == []


def test_steep_logits_are_flagged_with_the_attack_that_works():
    found = warnings_of(Around(trained(), after=lambda z: z * 1e4))
    assert any("cross-entropy is zero" in w and "pgd-margin" in w for w in found)


def test_probabilities_are_flagged():
    assert any("not logits" in w for w in warnings_of(Around(trained(), after=lambda z: z.softmax(1))))


def test_rows_that_depend_on_each_other_are_flagged():
    found = warnings_of(Around(trained(), before=lambda x: x - 0.1 * x.mean(0, keepdim=True)))
    assert any("other images of the batch" in w for w in found)


def test_nan_is_flagged():
    assert any("not finite" in w for w in warnings_of(Around(trained(), after=lambda z: z * torch.nan)))


def test_noise_that_is_off_is_flagged():
    model = trained(gamma=0.3)
    stocnoise.set_gamma(model, 0.0)
    assert any("gamma is 0" in w for w in warnings_of(model))
    model = trained(gamma=0.3)
    next(stocnoise.stochastic_layers(model))[1].noise = False
    assert any("1 of 2 stochastic layers" in w for w in warnings_of(model))


def test_a_model_in_training_mode_is_flagged_and_left_there():
    model = trained().train()
    assert any("training mode" in w for w in warnings_of(model))
    assert model.training


def test_too_weak_an_attack_is_flagged():
    # In this ball a second step brings some 20 points; 5 are enough for the warning.
    found = warnings_of(trained(adversarial=True), [stocnoise.PGD(steps=1, norm="l2")], (1.2,), steps=1, norm="l2")
    assert any("twice the steps" in w for w in found)


def test_robustness_from_noise_alone_is_flagged():
    # A teacher that only got noise: once the draw is known it falls, by 9 to 20 points, as the draw happens to be.
    model = trained(gamma=0.3)
    stocnoise.set_gamma(model, 1.0)
    found = [warnings_of(model, eps=0.1, eot=1, seed=seed) for seed in range(4)]
    assert sum(any("randomness alone" in w for w in warnings) for warnings in found) >= 2


def test_masked_gradients_lose_to_transfer_and_are_flagged():
    # Its forward pass is the teacher's, its gradient points anywhere: what a clumsy straight-through estimator does.
    class Misleading(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.randn_like(grad)

    teacher = trained()
    found = warnings_of(Around(trained(), before=Misleading.apply), ["pgd", "transfer"], transfer_from=teacher)
    assert any("made on another model" in w for w in found)
    assert any(w.startswith("transfer at ε") for w in found)


def test_images_outside_the_ball_do_not_count_unnoticed():
    class Cheat(BallAttack):
        def run(self, target, x, y, generator):
            return x + 2 * self.eps

    found = warnings_of(trained(), [Cheat(eps=0.1)], (0.1,), checks=False)
    assert any("left the ball" in w for w in found)


def entry(attack, eps, hits, gradients=10.0):
    hit = Successes(torch.tensor(hits, dtype=torch.float64), torch.ones(len(hits), dtype=torch.float64))
    zero = Rate(0.0, 0.0, 0.0)
    right = Score(1 - torch.tensor(hits)[:, None], 1 - torch.tensor(hits))
    return Entry(attack, eps, hit.rate, zero, 0, 0, 0, len(hits), gradients, 0, 0, 0, "", hit, right)


def test_entries_must_rise_with_eps_and_white_box_must_lead():
    many, few = [1.0] * 60 + [0.0] * 40, [1.0] * 20 + [0.0] * 80
    assert list(entry_warnings([entry("pgd", 0.1, few), entry("pgd", 0.2, many)])) == []
    (falls,) = entry_warnings([entry("pgd", 0.1, many), entry("pgd", 0.2, few)])
    assert "larger ball cannot be safer" in falls
    (masked,) = entry_warnings([entry("pgd", 0.1, few), entry("boundary", 0.1, many, 0.0)])
    assert masked.startswith("boundary") and "masked" in masked
    assert list(entry_warnings([entry("pgd", 0.1, many), entry("boundary", 0.1, few, 0.0)])) == []
