"""What an attack may change, and how far: bounds, a budget for each feature, masks."""

import pytest
import torch
from torch import nn

import stocnoise
from stocnoise import APGD, BIM, CW, MIM, PGD, AutoAttack, Boundary, RandomNoise

FEATURES = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs))


BALL = [PGD(steps=8), BIM(steps=8), MIM(steps=8), APGD(steps=8), RandomNoise()]


@pytest.mark.parametrize("attack", BALL, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_unbounded_features_move_by_eps_and_nothing_else_holds_them(attack, norm):
    found = attack.with_defaults(bounds=None, eps=2.0, norm=norm)(net(), FEATURES, Y)
    sizes = torch.linalg.vector_norm(found - FEATURES, torch.inf if norm == "inf" else 2, dim=1)
    assert sizes.max() <= 2 + 1e-5 and sizes.median() > 1.5


@pytest.mark.parametrize("attack", BALL, ids=lambda a: type(a).__name__)
def test_bounds_may_differ_from_feature_to_feature(attack):
    low, high = torch.tensor([-4.0, -4, -4, 0, 0, 0]), torch.tensor([4.0, 4, 4, 1, 1, 9])
    x = torch.minimum(torch.maximum(FEATURES, low), high)
    found = attack.with_defaults(bounds=(low, high), eps=0.8)(net(), x, Y)
    assert (found >= low).all() and (found <= high).all() and not torch.equal(found, x)
    with pytest.raises(ValueError, match="outside bounds"):
        attack.with_defaults(bounds=(low, high))(net(), x - 3, Y)


@pytest.mark.parametrize("attack", BALL, ids=lambda a: type(a).__name__)
def test_each_feature_has_its_budget(attack):
    eps = torch.tensor([0.5, 0.1, 0.0, 0.3, 0.3, 2.0])
    found = attack.with_defaults(bounds=None, eps=eps)(net(), FEATURES, Y)
    moved = (found - FEATURES).abs().amax(0)
    assert (moved <= eps + 1e-6).all() and (moved[eps > 0] > 0.5 * eps[eps > 0]).all()


def test_a_budget_for_each_feature_is_the_box_scaled():
    # PGD in a box of sides ε_j on f(x) is PGD in a cube on f(ε·x).
    eps = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.3, 2.0])

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, u):
            return self.net(u * eps)

    cube = BIM(eps=1.0, bounds=None, steps=6)(Scaled(), FEATURES / eps, Y) * eps
    torch.testing.assert_close(BIM(eps=eps, bounds=None, steps=6)(net(), FEATURES, Y), cube, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("attack", [*BALL, CW(steps=20)], ids=lambda a: type(a).__name__)
def test_what_the_mask_holds_stays_bit_for_bit(attack, norm):
    mask = torch.tensor([1.0, 1, 0, 1, 0, 1])
    found = attack.with_defaults(bounds=None, eps=0.7, norm=norm, mask=mask)(net(), FEATURES, Y)
    assert torch.equal(found[:, mask == 0], FEATURES[:, mask == 0])
    assert not torch.equal(found, FEATURES)


def test_a_masked_image_attack_uses_the_whole_budget_on_what_is_left():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.full((4, 3, 4, 4), 0.5)
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    found = PGD(eps=1.0, norm="l2", steps=10, mask=mask)(model, x, Y[:4])
    assert torch.equal(found[:, :, 2:], x[:, :, 2:])
    assert (found - x).flatten(1).norm(dim=1).min() > 0.999


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-4.0, 4.0), None])
def test_cw_finds_the_nearest_point_of_a_linear_boundary(bounds):
    # For f = sign(w·x + b) the least ‖δ‖₂ is |w·x + b| / ‖w‖₂.
    torch.manual_seed(1)
    model = nn.Linear(6, 2)
    x = FEATURES.clamp(-0.4, 0.4)
    logits = model(x)
    w = (model.weight[0] - model.weight[1]).detach()
    nearest = (logits[:, 0] - logits[:, 1]).abs().detach() / w.norm()
    found = CW(steps=300, search_steps=8, learning_rate=0.02, bounds=bounds)(model, x, logits.argmax(1))
    distance = (found - x).norm(dim=1)
    assert (distance >= nearest - 1e-5).all() and (distance <= 1.1 * nearest + 0.02).all()


def test_cw_with_one_bound_is_refused():
    with pytest.raises(ValueError, match="both sides or none"):
        CW(bounds=(0.0, None))(net(), FEATURES.abs(), Y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("attack", [Boundary(steps=100), AutoAttack(eps=0.9)], ids=["boundary", "autoattack"])
def test_libraries_work_between_other_bounds(attack):
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    model, x = net(), FEATURES.clamp(-3, 3)
    y = model(x).argmax(1)
    found = attack.with_defaults(bounds=(-3.0, 3.0))(model, x, y)
    assert found.min() >= -3 - 1e-6 and found.max() <= 3 + 1e-6 and not torch.equal(found, x)
    if isinstance(attack, AutoAttack):
        assert (found - x).abs().max() <= 0.9 + 1e-5
    with pytest.raises(ValueError, match="bounds"):
        attack.with_defaults(bounds=None)(model, x, y)


@pytest.mark.parametrize("classes", [2, 3, 5, 9])
@pytest.mark.parametrize("version", ["rand", "standard"])
def test_autoattack_runs_below_ten_classes_and_on_features(classes, version):
    pytest.importorskip("pyautoattack")
    torch.manual_seed(0)
    x = torch.rand(6, 5)
    model = nn.Linear(5, classes)
    found = AutoAttack(version=version, eps=0.5)(model, x, model(x).argmax(1))
    assert (found - x).abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 8}, "eps=8/255"),
        ({"eps": torch.tensor([0.1, 2.0])}, "whole range"),
        ({"eps": torch.tensor([0.1, 0.2]), "norm": "l2"}, "must be a number"),
        ({"eps": -1.0}, "at least 0"),
        ({"bounds": (1.0, 0.0)}, "low < high"),
        ({"bounds": 1.0}, "pair"),
        ({"mask": torch.tensor([0.5])}, "mask must hold 0"),
        ({"bounds": ("a", 1.0)}, "numbers, tensors or None"),
        ({"eps": "8/255"}, "eps must be a number"),
        ({"step_size": -1.0}, "step_size must be"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"eot": 0}, "eot must be a whole number"),
        ({"momentum": float("nan")}, "momentum must be a finite number"),
    ],
)
def test_settings_that_nothing_can_mean_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        PGD(**settings)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: CW(learning_rate=0), "learning_rate must be"),
        (lambda: stocnoise.HopSkipJump(queries=1.5), "queries must be"),
        (lambda: stocnoise.Transfer(source=None), "source must be the model"),
        (lambda: stocnoise.Transfer(source=net(), attack=CW()), "attack must be one in a ball"),
        (lambda: PGD()(net(), FEATURES.numpy(), Y), "x must be a tensor, not ndarray"),
        (lambda: PGD()(net(), FEATURES, [0] * 24), "y must be a tensor, not list"),
        (lambda: PGD()(net(), FEATURES, Y[:3]), "24 images but 3 labels"),
        (lambda: PGD()(net(), FEATURES.long(), Y), "floating point"),
    ],
)
def test_wrong_calls_are_refused_in_words(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("name", ["eps", "mask"])
def test_shapes_that_do_not_fit_an_input_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} of shape \(5,\) does not fit inputs of shape \(6,\)"):
        PGD(bounds=None, **{name: torch.ones(5)})(net(), FEATURES, Y)


def test_images_outside_the_usual_bounds_are_told_of_others():
    with pytest.raises(ValueError, match=r"bounds=\(low, high\)"):
        stocnoise.PGD()(net(), FEATURES, Y)
