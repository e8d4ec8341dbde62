"""CW, Boundary and HopSkipJump: smallest perturbations, and what is left of them on fresh draws."""

import pytest
import torch
from attacks_models import SmallNet, accuracy, digits, trained
from torch import nn

from stocnoise.attacks import CW, Boundary, HopSkipJump, overshoot
from stocnoise.attacks.decision import InconsistentAnswersError
from stocnoise.attacks.frozen import frozen, is_stochastic
from stocnoise.layers import StocReLUEMA

X, Y = (t[:48] for t in digits()[2:])


def size(found):
    return (found - X).flatten(1).norm(dim=1)


def foolbox_model(model):
    foolbox = pytest.importorskip("foolbox")
    return foolbox, foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("adversarial", [False, True])
def test_cw_is_as_strong_as_foolbox_at_equal_budget(adversarial):
    model = trained(adversarial)
    foolbox, wrapped = foolbox_model(model)
    ours = CW(steps=60, search_steps=5, learning_rate=0.05, initial_const=0.1)
    theirs = foolbox.attacks.L2CarliniWagnerAttack(
        steps=60, binary_search_steps=5, stepsize=0.05, initial_const=0.1, abort_early=False
    )
    found, reference = ours(model, X, Y), theirs.run(wrapped, X, Y)
    reference_found = reference.flatten(1).sum(1) > 0  # foolbox gives a black image where it finds nothing
    fooled = model(found).argmax(1) != Y
    assert (fooled >= (reference_found & (model(reference).argmax(1) != Y))).all()
    # The same optimiser, so the same distance for each image but for rounding.
    both = fooled & reference_found
    assert both.sum() > 40
    assert (size(found) <= size(reference) * 1.01)[both].all()


def test_cw_confidence_is_a_margin_of_logits():
    model = trained()
    found = CW(steps=60, search_steps=4, confidence=2.0)(model, X, Y)
    logits = model(found)
    own = logits.gather(1, Y[:, None]).squeeze(1)
    other = logits.scatter(1, Y[:, None], -torch.inf).amax(1)
    moved = size(found) > 0
    assert moved.sum() > 40 and (other - own)[moved].min() >= 2.0 - 1e-4


def test_cw_with_eot_fools_fresh_draws_more_often_than_lucky_draws_do():
    model = trained(adversarial=True, gamma=0.3)
    lucky, meant = (CW(steps=40, search_steps=4, eot=eot)(model, X, Y) for eot in (1, 8))
    moved = (size(lucky) > 0) & (size(meant) > 0)
    lucky_accuracy, meant_accuracy = (accuracy(model, found[moved], Y[moved], 32) for found in (lucky, meant))
    assert meant_accuracy < lucky_accuracy - 0.1


def test_cw_leaves_images_alone_that_it_cannot_beat():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * x.flatten(1)[:, :1]

    assert torch.equal(CW(steps=3, search_steps=2)(Constant(), X, torch.zeros_like(Y)), X)


@pytest.mark.parametrize("attack", [Boundary(steps=150), HopSkipJump(steps=3, queries=20)])
@pytest.mark.parametrize("gamma", [None, 0.3], ids=["deterministic", "stochastic"])
def test_decision_attacks_fool_the_classifier_they_ask(attack, gamma):
    pytest.importorskip("foolbox")
    model = trained(True, gamma).train()
    found = attack(model, X, Y)
    assert model.training and found.dtype == X.dtype
    assert found.min() >= 0 and found.max() <= 1
    assert size(found).median() < 0.6 * (X.flip(0) - X).flatten(1).norm(dim=1).median()
    # On fresh draws a point of the boundary is a coin's toss; a little further on it is not.
    assert accuracy(model.eval(), overshoot(X, found, 1.5), Y, 16) < 0.3


def test_raw_noise_makes_the_boundary_attack_look_for_lucky_draws():
    pytest.importorskip("foolbox")
    model = trained(True, 0.3)
    raw, asked = (Boundary(steps=400, noise=noise)(model, X, Y) for noise in ("raw", "frozen"))
    assert size(raw).median() < size(asked).median()
    assert accuracy(model, raw, Y, 32) > accuracy(model, asked, Y, 32) + 0.2


def test_hop_skip_jump_refuses_raw_noise():
    with pytest.raises(ValueError, match="frozen"):
        HopSkipJump(noise="raw")


def test_decision_attacks_leave_the_random_state_reproducible():
    pytest.importorskip("foolbox")
    model = trained()
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append((Boundary(steps=20)(model, X[:8], Y[:8]), torch.rand(1)))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_images_without_a_start_come_back_unchanged():
    pytest.importorskip("foolbox")

    class Corner(nn.Module):
        """Class 1 where the upper left pixel is bright, else 0; never 2."""

        def forward(self, x):
            corner = x.flatten(1)[:, 0]
            return torch.stack([0.5 - corner, corner - 0.5, torch.full_like(corner, -1.0)], 1)

    x = X[:6].clone()
    x[:, :, 0, 0] = 0.0
    y = torch.zeros(6, dtype=torch.long)
    found = Boundary(steps=20)(Corner(), x, y)
    assert (Corner()(found).argmax(1) == 1).all()

    class Never(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).repeat(len(x), 1)

    assert torch.equal(Boundary(steps=20)(Never(), x, y), x)


def test_answers_that_contradict_each_other_end_in_an_error_that_says_what_to_do():
    pytest.importorskip("foolbox")

    class Fickle(nn.Module):
        """Wrong on the draws that choose a start, right ever after."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.tensor([[0.0, 1.0] if self.calls <= 64 else [1.0, 0.0]]).repeat(len(x), 1)

    with pytest.raises(InconsistentAnswersError, match="noise='frozen'"):
        Boundary(steps=5, noise="raw")(Fickle(), X[:4], torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_overshoot_goes_on_along_the_line_within_the_budget(factor, norm):
    x = torch.full((3, 1, 2, 2), 0.5)
    delta = torch.tensor([0.01, 0.1, 0.4])[:, None, None, None] * torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    found = overshoot(x, x + delta, factor, 0.12, norm)
    order = torch.inf if norm == "inf" else 2
    before, after = (d.flatten(1).norm(p=order, dim=1) for d in (delta, found - x))
    torch.testing.assert_close(after, (factor * before).clamp_max(0.12))
    torch.testing.assert_close((found - x) / per_image(after), delta / per_image(before))
    assert torch.equal(overshoot(x, x, 1.5), x)


def per_image(v):
    return v[:, None, None, None]


class LogitNoise(nn.Module):
    def __init__(self, model, scale):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x):
        logits = self.model(x)
        return logits + self.scale * torch.randn_like(logits)


@pytest.mark.parametrize("make", [lambda: trained(gamma=0.3), lambda: LogitNoise(trained(), 2.0), trained])
def test_frozen_is_deterministic_and_differs_by_seed(make):
    model = make()
    outputs = []
    for seed in (1, 1, 2):
        with frozen(model, seed, X) as classifier, torch.no_grad():
            first, second = classifier(X), classifier(X)
            assert torch.equal(first, second)
            outputs.append(first)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2]) == (not is_stochastic(model, X))


def test_frozen_noise_of_our_layers_does_not_depend_on_the_batch():
    model = trained(gamma=0.3)
    with frozen(model, 0, X) as classifier, torch.no_grad():
        whole = classifier(X)
        torch.testing.assert_close(classifier(X[7:9]), whole[7:9], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(classifier(X.flip(0)), whole.flip(0), atol=1e-4, rtol=1e-4)


def test_frozen_refuses_a_sequence_first_model():
    # Its activations are (L, B, C): sharing along dimension 0 would give each image of the batch another noise.
    class SequenceFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = StocReLUEMA(8, channel_dim=-1, gamma=1.0)
            self.act.sigma.fill_(1.0)
            self.act.num_batches_tracked.fill_(1)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.act(x.squeeze(1).transpose(0, 1))).mean(0)

    model = SequenceFirst().eval()
    with pytest.raises(ValueError, match="batch-first"), frozen(model, 0, X):
        pass
    assert all(layer.fixed_seed is None for layer in [model.act])


def test_training_buffers_of_a_frozen_model_stay():
    model = SmallNet(lambda channels: StocReLUEMA(channels, gamma=0.2)).eval()
    model.features[2].sigma.fill_(1.0)
    model.features[2].num_batches_tracked.fill_(1)
    model.features[5].num_batches_tracked.fill_(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model, 0, X) as classifier:
        classifier(X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
