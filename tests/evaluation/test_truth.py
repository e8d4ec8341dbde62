"""Checks that know the answer: layers whose gradient lies, and adversarial inputs that are there to be found."""

from __future__ import annotations

import pytest
import torch
from attacks_models import SmallNet, digits, trained
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD
from stocnoise.attacks.features import NoClassifierError
from stocnoise.batches import Batch
from stocnoise.evaluation.binarisation import binarisation
from stocnoise.evaluation.straight_through import misleading_layers, straight_through
from stocnoise.evaluation.subject import Subject

X, Y = (t[:64] for t in digits()[2:])


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 8).round() / 8


class DeadZone(nn.Module):
    """What lies within a band around the mean becomes the mean."""

    def forward(self, x: Tensor) -> Tensor:
        mean, width = x.mean(), x.std()
        return torch.where((x - mean).abs() < width, mean.detach(), x)


class OneHot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x.argmax(1), x.shape[1]).to(x)


def with_activation(make) -> SmallNet:
    model = SmallNet(lambda channels: nn.Sequential(nn.ReLU(), make()))
    weights = {name.replace("features.2.", "features.2.0."): value for name, value in trained().state_dict().items()}
    model.load_state_dict(weights)
    return model.eval()


def subject(model: nn.Module) -> Subject:
    return Subject(model.eval())


def found_in(model: nn.Module, x: Tensor = X[:8]) -> list[str]:
    return [name for name, _ in misleading_layers(subject(model), Batch(x, Y[: len(x)]))]


@pytest.mark.parametrize(
    ("layer", "lies"),
    [
        (Rounded(), True),
        (DeadZone(), True),
        (OneHot(), True),
        *((layer, False) for layer in (nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.Hardtanh(-0.1, 0.1), nn.Hardshrink(0.0))),
        (nn.Softmax(1), False),
        (nn.LayerNorm(32), False),
        (nn.Dropout(0.5).eval(), False),
        (stocnoise.StocReLUEMA(32, gamma=0.3), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_lies_if_its_gradient_does_not_add_up_to_its_change(layer, lies):
    torch.manual_seed(0)
    if isinstance(layer, stocnoise.StocReLUEMA):
        stocnoise.calibrate(layer, [torch.randn(64, 32)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), layer, nn.Linear(32, 10))
    assert found_in(model, torch.rand(8, 1, 8, 8) * 4) == (["2"] if lies else [])


def test_only_the_innermost_layer_is_passed_and_only_within_the_block():
    model = with_activation(Rounded)
    assert found_in(model) == ["features.2.1", "features.5.1"]
    x = X[:4].clone().requires_grad_()
    layers = [module for _, module in misleading_layers(subject(model), Batch(X[:8], Y[:8]))]
    plain = model(x)
    with straight_through(layers):
        through = model(x)
        assert torch.autograd.grad(through.sum(), x)[0].abs().max() > 0
    torch.testing.assert_close(through, plain)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.autograd.grad(model(x).sum(), x)[0].abs().max() == 0


def warnings_of(model, **more):
    settings = {"eot": 2, "steps": 10, "draws": 8, "progress": False, "check_images": 64} | more
    return stocnoise.evaluate(model, [(X, Y)], "pgd", 0.15, **settings).warnings


@pytest.mark.slow
def test_a_layer_that_hides_its_gradient_is_passed_through_and_said():
    found = warnings_of(with_activation(Rounded))
    assert any("backwards as the identity" in w and "features.2.1" in w for w in found)


def test_the_attack_finds_what_is_there_in_a_sound_model_and_random_search_does_not():
    found = binarisation(subject(trained(adversarial=True)), Batch(X[:16], Y[:16]), PGD(eps=0.15, steps=20), 1)
    assert found.attack >= 0.8 and found.random < 0.5  # 13 of 16: fewer would be less than 95 % beyond chance


def test_the_attack_finds_nothing_where_the_gradient_is_killed():
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained(adversarial=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x * 255).round() / 255)

    found = binarisation(subject(Quantised()), Batch(X[:16], Y[:16]), PGD(eps=0.15, steps=10), 1)
    assert found.attack < 0.6


@pytest.mark.slow
def test_a_stochastic_model_is_judged_by_the_mean_of_its_draws():
    model = trained(adversarial=True, gamma=0.1)
    found = binarisation(subject(model), Batch(X[:16], Y[:16]), PGD(eps=0.15, steps=20, eot=8), 8)
    assert found.attack >= 0.8 and found.random < 0.5  # 13 of 16: fewer would be less than 95 % beyond chance


def test_the_classifier_is_timms_own_or_the_last_linear_or_said():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.later = nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(10, 10)

        def get_classifier(self) -> nn.Module:
            return self.head

        def forward(self, x: Tensor) -> Tensor:
            return self.later(self.head(self.body(x.flatten(1)).relu()))

    assert binarisation(subject(Own()), Batch(X[:4], Y[:4]), PGD(eps=0.1, steps=2), 1).attack <= 1
    convolution = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(NoClassifierError, match="no Linear"):
        binarisation(subject(convolution), Batch(X[:4], Y[:4]), PGD(eps=0.1, steps=2), 1)
    assert any("binarisation test could not run" in w for w in warnings_of(convolution, steps=2, check_images=16))
