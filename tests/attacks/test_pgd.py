"""PGD, BIM and MIM: against foolbox and against formulas of their own."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from attacks_models import accuracy, digits, trained
from torch import nn

from stocnoise import BIM, MIM, PGD
from stocnoise.attacks.losses import dlr, margin

X, Y = (t[:64] for t in digits()[2:])


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("gamma", [None, 0.1], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        # L∞ as users run it; L2 in float64, because normalising a nearly vanished gradient magnifies rounding.
        ("LinfBasicIterativeAttack", BIM(eps=0.1, steps=8, step_size=0.02)),
        ("LinfProjectedGradientDescentAttack", PGD(eps=0.1, steps=8, step_size=0.02)),
        ("L2BasicIterativeAttack", BIM(eps=1.0, steps=8, step_size=0.2, norm="l2")),
        ("L2ProjectedGradientDescentAttack", PGD(eps=1.0, steps=8, step_size=0.2, norm="l2")),
    ],
)
def test_equals_foolbox_at_the_same_seed(name, ours, gamma, default_dtype):
    foolbox = pytest.importorskip("foolbox")
    dtype = torch.float32 if ours.norm == "inf" else torch.float64
    model, x = trained(gamma=gamma).to(dtype), X.to(dtype)
    default_dtype(dtype)  # foolbox draws random starts in it
    theirs = getattr(foolbox.attacks, name)(abs_stepsize=ours.step_size, steps=ours.steps)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    torch.manual_seed(5)
    reference = theirs.run(wrapped, x, Y, epsilon=ours.eps)
    torch.manual_seed(5)
    torch.testing.assert_close(ours(model, x, Y), reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_mim_follows_dong_et_al(norm):
    # Equations 6 and 7 of Dong et al. (CVPR 2018), image by image, in float64.
    model = trained().double()
    x, y, eps, alpha, mu = X[:4].double(), Y[:4], 0.1, 0.02, 0.7
    expected = []
    for image, label in zip(x, y, strict=True):
        g, point = torch.zeros_like(image), image
        for _ in range(6):
            leaf = point.clone().requires_grad_()
            F.cross_entropy(model(leaf[None]), label[None]).backward()
            g = mu * g + leaf.grad / leaf.grad.abs().sum()
            point = point + alpha * (g.sign() if norm == "inf" else g / g.norm())
            delta = point - image
            delta = delta.clamp(-eps, eps) if norm == "inf" else delta * min(1.0, eps / delta.norm().item())
            point = (image + delta).clamp(0, 1)
        expected.append(point)
    found = MIM(eps=eps, steps=6, step_size=alpha, momentum=mu, norm=norm)(model, x, y)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-9, rtol=0)


@pytest.mark.parametrize("attack", [PGD, BIM, MIM])
@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.2), ("l2", 1.5)])
def test_stays_in_the_ball_and_breaks_a_plain_network(attack, norm, eps):
    model = trained()
    found = attack(eps=eps, steps=20, norm=norm)(model, X, Y)
    size = (found - X).flatten(1).norm(p=torch.inf if norm == "inf" else 2, dim=1)
    assert size.max() <= eps * (1 + 1e-5)
    assert found.min() >= 0 and found.max() <= 1
    assert accuracy(model, found, Y) < 0.25 < accuracy(model, X, Y)


def test_eot_gradient_is_the_mean_over_draws():
    # A linear model with noise on its weights: the mean gradient is known, one draw's is not it.
    class Wobbly(nn.Module):
        def forward(self, x):
            w = torch.tensor([0.1, -0.2]) + torch.randn(len(x), 2)
            return torch.stack([torch.zeros(len(x)), (x.flatten(1) * w).sum(1)], 1)

    def loss(logits, y):
        return logits[:, 1]

    x, y = torch.full((200, 1, 1, 2), 0.5), torch.zeros(200, dtype=torch.long)
    torch.manual_seed(0)
    expected = torch.tensor([0.6, 0.4]).expand_as(x)
    step = PGD(eps=0.1, steps=1, step_size=0.1, random_start=False, loss=loss)
    right = [
        (dataclasses.replace(step, eot=eot)(Wobbly(), x, y) == expected).float().mean().item() for eot in (1, 16, 1024)
    ]
    assert right[0] < 0.65 < right[1] < 0.85 < right[2]


def test_more_draws_make_a_stronger_attack_on_a_stochastic_network():
    model, x, y = trained(adversarial=True, gamma=0.3), *digits()[2:]
    torch.manual_seed(0)
    one, many = (accuracy(model, PGD(eps=0.15, steps=10, eot=k)(model, x, y), y, 16) for k in (1, 8))
    assert many < one


def test_random_start_is_reproducible_by_seed_and_by_generator():
    model = trained()
    attack = PGD(eps=0.1, steps=2)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(attack(model, X, Y))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    runs = [attack(model, X, Y, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    state = torch.get_rng_state()
    attack(model, X, Y, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_random_start_fills_the_ball(norm):
    from stocnoise.attacks.ball import Ball, norms

    ball = Ball(torch.full((20_000, 1, 1, 2), 0.5), 0.4, norm)
    delta = ball.random() - ball.x
    inside = norms(delta, norm)
    assert inside.max() <= 0.4 + 1e-6
    # Of a uniform point in two dimensions a quarter lies within half the radius, for either norm.
    assert abs((inside <= 0.2).float().mean() - 0.25) < 0.02
    assert delta.mean(0).abs().max() < 0.01


def test_restarts_keep_the_highest_loss_of_each_image():
    model = trained(adversarial=True)
    one, several = PGD(eps=0.15, steps=3), PGD(eps=0.15, steps=3, restarts=4)

    def losses(x):
        return F.cross_entropy(model(x), Y, reduction="none")

    torch.manual_seed(0)
    singles = torch.stack([losses(one(model, X, Y)) for _ in range(4)])
    torch.manual_seed(0)
    torch.testing.assert_close(losses(several(model, X, Y)), singles.amax(0))


def test_early_stop_leaves_beaten_images_where_they_fell():
    model = trained()
    attack = BIM(eps=0.3, steps=12, stop_early=True)
    labels = Y.clone()
    labels[:8] = (model(X[:8]).argmax(1) + 1) % 10  # beaten from the start
    found = attack(model, X, labels)
    assert torch.equal(found[:8], X[:8])
    full = BIM(eps=0.3, steps=12)(model, X, labels)
    assert (model(found).argmax(1) != labels).sum() >= (model(full).argmax(1) != labels).sum()
    assert (found - X).abs().mean() < (full - X).abs().mean()


def test_custom_loss_against_a_given_target():
    # The inner problem of TRADES: the KL divergence to the clean prediction, passed as y.
    model = trained()
    clean = model(X).detach()

    def kl(logits, target):
        return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="none", log_target=True).sum(1)

    torch.manual_seed(0)
    found = PGD(eps=0.1, loss=kl)(model, X, clean)
    nearby = X + 0.1 * torch.randn_like(X).sign()
    assert kl(model(found), clean).mean() > 3 * kl(model(nearby.clamp(0, 1)), clean).mean()


@pytest.mark.parametrize("loss", [margin, dlr])
def test_losses_are_positive_where_misclassified(loss):
    logits = torch.randn(500, 10, dtype=torch.float64)
    y = torch.randint(10, (500,))
    assert torch.equal(loss(logits, y) > 0, logits.argmax(1) != y)


def test_dlr_ignores_scale_and_shift_and_needs_three_classes():
    logits, y = torch.randn(50, 5, dtype=torch.float64), torch.randint(5, (50,))
    torch.testing.assert_close(dlr(7 * logits + 3, y), dlr(logits, y))
    with pytest.raises(ValueError, match="3 classes"):
        dlr(logits[:, :2], y.clamp_max(1))


def test_zero_radius_and_empty_batch():
    model = trained()
    torch.testing.assert_close(PGD(eps=0)(model, X, Y), X)
    assert PGD()(model, X[:0], Y[:0]).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": -0.1},
        {"steps": 0},
        {"norm": "l1"},
        {"eot": 0},
        {"restarts": 0},
        {"restarts": 2, "random_start": False},
        {"momentum": -1.0},
        {"batch_norm": "both"},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PGD(**settings)
