"""Attacks on what is no choice between classes, against loops by hand in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stocnoise
from stocnoise import APGD, BIM, CW, MIM, PGD, RandomNoise, Task
from stocnoise.attacks.losses import dlr, margin
from stocnoise.batches import Others


def net(features, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, outputs))


def climbed(model, x, loss, eps, steps, step_size):
    """x ← Π(x + s·sign ∇ loss), in float64."""
    model, start = copy.deepcopy(model).double(), x.double()
    point = start
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)).sum(), leaf)
        point = (point + step_size * gradient.sign()).clamp(start - eps, start + eps).clamp(0, 1)
    return point


X = torch.rand(32, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("column", [False, True], ids=["(B,)", "(B, 1)"])
def test_bim_on_one_logit_follows_its_cross_entropy(column):
    model, y = net(8, 1), (X[:, 0] > 0.5).long()
    target = y[:, None].float() if column else y
    found = BIM(eps=0.1, steps=5, step_size=0.03, task="binary")(model, X, target)
    signs = (1 - 2 * y).double()
    expected = climbed(model, X, lambda z: F.softplus(signs * z.flatten()), 0.1, 5, 0.03)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_bim_on_several_labels_raises_the_mean_of_their_losses():
    model, y = net(8, 3), (X[:, :3] > 0.5).long()
    found = BIM(eps=0.1, steps=5, step_size=0.03, task="multilabel")(model, X, y)
    signs = (1 - 2 * y).double()
    expected = climbed(model, X, lambda z: F.softplus(signs * z).mean(1), 0.1, 5, 0.03)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_bim_on_pixels_leaves_ignored_ones_out():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1)
    x, y = torch.rand(4, 1, 6, 6), torch.randint(3, (4, 6, 6))
    y[:, :3] = -100
    found = BIM(eps=0.1, steps=4, step_size=0.04, task="segmentation")(model, x, y)

    def loss(z):
        return F.cross_entropy(z[:, :, 3:], y[:, 3:], reduction="none").flatten(1).mean(1)

    torch.testing.assert_close(found.double(), climbed(model, x, loss, 0.1, 4, 0.04), atol=1e-5, rtol=0)
    assert torch.equal(found[:, :, :2], x[:, :, :2])  # no counted pixel sees them


def test_a_regression_is_attacked_by_its_own_loss():
    model, y = net(8, 2), torch.rand(32, 2)
    task = Task(lambda z, t: ((z - t) ** 2).mean(1), lambda z, t: (z - t).abs().amax(1) > 0.5)
    found = BIM(eps=0.1, steps=5, step_size=0.03, task=task)(model, X, y)
    expected = climbed(model, X, lambda z: ((z - y.double()) ** 2).mean(1), 0.1, 5, 0.03)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="decide="):
        BIM(task=task)(model, X)


@pytest.mark.parametrize("attack", [PGD(eps=0.2), APGD(eps=0.2, steps=20), CW(steps=40), MIM(eps=0.2)], ids=str)
def test_every_gradient_attack_breaks_one_logit(attack):
    model, y = net(8, 1), (X[:, 0] > 0.5).long()
    model[2].bias.data -= model(X).median()
    y = (model(X).flatten() > 0).long()
    found = attack.with_defaults(task="binary")(model, X, y)
    assert ((model(found).flatten() > 0).long() == y).float().mean() < 0.5


@pytest.mark.parametrize(
    ("attack", "task", "words"),
    [
        (PGD(loss=margin), "multilabel", "loss margin is one of classes"),
        (APGD(loss=dlr), "binary", "loss dlr is one of classes"),
        (CW(), "segmentation", "needs a task with a margin"),
        (stocnoise.Boundary(), "multilabel", "chooses between classes"),
        (stocnoise.AutoAttack(), "segmentation", "chooses between classes"),
    ],
    ids=str,
)
def test_an_attack_that_cannot_mean_a_task_says_so(attack, task, words):
    with pytest.raises(ValueError, match=words):
        attack.with_defaults(task=task)(net(8, 3), X, torch.zeros(32, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "attack", [stocnoise.Boundary(steps=200), stocnoise.AutoAttack(eps=0.2)], ids=["boundary", "autoattack"]
)
def test_libraries_see_one_logit_as_two_classes(attack):
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    model = net(8, 1)
    model[2].bias.data -= model(X).median()
    y = (model(X) > 0).long()
    found = attack.with_defaults(task="binary")(model, X, y)
    moved = (found - X).norm(dim=1)
    stepped = X + 1.01 * (found - X)
    assert ((model(stepped) > 0).long() != y)[moved > 0].float().mean() > 0.9 and (moved > 0).float().mean() > 0.5


# Targeted attacks


@pytest.mark.parametrize(
    "attack",
    [BIM(eps=0.3, steps=20), PGD(eps=0.3, steps=20, restarts=2), APGD(eps=0.3, steps=20),
     APGD(eps=0.3, loss=margin), MIM(eps=0.3), CW(steps=60, search_steps=5), PGD(eps=0.3, steps=20, stop_early=True)],
    ids=str,
)  # fmt: skip
def test_a_targeted_attack_reaches_the_class_it_was_told(attack):
    model = net(8, 4)
    model[2].bias.data -= model(X).mean(0)
    wanted = (model(X).argmax(1) + 1) % 4
    found = attack.with_defaults(targeted=True)(model, X, wanted)
    assert (model(found).argmax(1) == wanted).float().mean() > 0.8


def test_a_targeted_bim_descends_on_the_wanted_class():
    model, wanted = net(8, 4), torch.arange(32) % 4
    found = BIM(eps=0.1, steps=5, step_size=0.03, targeted=True)(model, X, wanted)
    expected = climbed(model, X, lambda z: z.log_softmax(1)[torch.arange(32), wanted], 0.1, 5, 0.03)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_targeted_without_a_target_or_a_targeted_form_is_refused():
    with pytest.raises(ValueError, match="the answers wanted"):
        PGD(targeted=True)(net(8, 4), X)
    with pytest.raises(ValueError, match="RandomNoise has no targeted form"):
        RandomNoise(targeted=True)
    with pytest.raises(ValueError, match="use margin"):
        APGD(targeted=True, loss=dlr)(net(8, 4), X, torch.zeros(32, dtype=torch.long))


# Outputs that are no tensor, models of several inputs


class Gated(nn.Module):
    """Two inputs; answers in a dict."""

    def __init__(self):
        super().__init__()
        self.body = net(8, 4)

    def forward(self, features, gate):
        return {"aux": 0.0, "scores": self.body(features * gate)}


@pytest.mark.parametrize(
    "attack",
    [BIM(eps=0.2, steps=8, eot=2, stop_early=True), MIM(eps=0.1, eot=3), CW(steps=9, search_steps=2, eot=2)],
    ids=["stop_early", "mim", "cw"],
)
def test_other_inputs_follow_their_rows(attack):
    model, gates, y = Gated().eval(), torch.rand(32, 8), torch.arange(32) % 4
    attack = attack.with_defaults(output="scores")
    together = attack(model, X, y, others=Others({"gate": gates}, "features"))
    alone = [
        attack(model, x, label, others=Others({"gate": gate}, "features"))
        for x, label, gate in zip(X.split(1), y.split(1), gates.split(1), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (together - X).abs().amax(1).min() >= 0 and not torch.equal(together, X)


def test_inputs_by_position_are_called_in_order():
    class Ratio(nn.Module):
        def forward(self, a, b):
            return torch.stack([a.sum(1), b.sum(1)], 1)

    given = Others({0: torch.full((32, 8), 0.5)}, 1)  # the second input is attacked
    y = torch.zeros(32, dtype=torch.long)
    found = BIM(eps=0.1, steps=1, step_size=0.1)(Ratio(), X, y, others=given)
    torch.testing.assert_close(found, (X + 0.1).clamp(0, 1))  # b has to grow for the answer to be 1


@pytest.mark.parametrize("attack", [stocnoise.AutoAttack(), stocnoise.Boundary()], ids=["autoattack", "boundary"])
def test_libraries_refuse_other_inputs_and_masks(attack):
    with pytest.raises(ValueError, match="one input"):
        attack(Gated(), X, torch.zeros(32, dtype=torch.long), others=Others({"gate": X}, "features"))
    with pytest.raises(ValueError, match="mask="):
        attack.with_defaults(mask=torch.ones(8))(net(8, 4), X, torch.zeros(32, dtype=torch.long))


# Types


def test_inputs_of_another_type_than_the_weights_are_told_apart():
    with pytest.raises(ValueError, match=r"inputs of type torch.float32: convert them to torch.float64"):
        PGD()(net(8, 4).double(), X, torch.zeros(32, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_labels_of_any_integer_type_are_taken(dtype):
    model, y = net(8, 4), torch.arange(32) % 2
    torch.testing.assert_close(BIM()(model, X, y.to(dtype)), BIM()(model, X, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_the_ball_holds_in_sixteen_bit(dtype, norm):
    model, x, eps = net(8, 4).to(dtype), X.to(dtype), 8 / 255
    found = PGD(eps=eps, norm=norm)(model, x, torch.arange(32) % 4)
    delta = (found.double() - x.double()).flatten(1)
    assert found.dtype == dtype and found.min() >= 0 and found.max() <= 1
    assert torch.linalg.vector_norm(delta, torch.inf if norm == "inf" else 2, dim=1).max() <= eps
    assert delta.abs().amax() > 0.7 * eps * (1 if norm == "inf" else 8**-0.5)


def test_rounding_goes_towards_the_original():
    from stocnoise.attacks.ball import rounded

    x = torch.cat([torch.randn(4000), torch.zeros(50), -torch.zeros(50)]).bfloat16()
    found = x.float() + 0.01 * torch.randn(len(x))
    near = rounded(found, x)
    assert (near.float() - x.float()).abs().sub((found - x.float()).abs()).max() <= 0
    assert (near.float() - found).abs().le(found.abs() * 2**-7 + 1e-30).all()  # at most one step of bfloat16
