"""Asking a stochastic model more than once, and asking always the same one of its many classifiers."""

import pytest
import torch
from attacks_models import accuracy, digits, noisy_net, trained
from torch import nn

import stocnoise

X, Y = (t[:40] for t in digits()[2:])


class Scripted(nn.Module):
    """Answers from a list, one entry for each row it sees."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = [torch.tensor(answer, dtype=torch.float32) for answer in answers]

    def forward(self, x):
        rows, self.answers = self.answers[: len(x)], self.answers[len(x) :]
        return torch.stack(rows)


def test_mean_spread_vote_and_agreement_by_hand():
    model = Scripted([2.0, 0.0], [0.0, 1.0], [0.0, 0.5])
    found = stocnoise.predict(model, torch.zeros(1, 1), samples=3)
    p = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.5]]).softmax(1)
    torch.testing.assert_close(found.probabilities, p.mean(0, keepdim=True))
    torch.testing.assert_close(found.spread, p.std(0, correction=0, keepdim=True))
    assert found.vote.tolist() == [1] and found.agreement.tolist() == [pytest.approx(2 / 3)]
    assert found.probabilities.argmax(1).tolist() == [0]  # one sure draw outweighs two that are not


def test_a_tied_vote_goes_to_the_higher_mean():
    found = stocnoise.predict(Scripted([3.0, 0.0], [0.0, 1.0]), torch.zeros(1, 1), samples=2)
    assert found.vote.tolist() == [0] and found.agreement.tolist() == [0.5]


def test_averaging_helps_a_noisy_student():
    model = trained(gamma=0.3)
    stocnoise.set_gamma(model, 1.5)
    x, y = digits()[2:]
    found = stocnoise.predict(model, x, samples=32)
    assert (found.vote == y).float().mean() > accuracy(model, x, y, 8) + 0.02
    assert found.spread.max() > 0.1 and found.agreement.min() < 0.9


def test_a_deterministic_model_has_no_spread():
    found = stocnoise.predict(trained(), X, samples=4)
    assert found.spread.abs().max() < 1e-6 and (found.agreement == 1).all()
    torch.testing.assert_close(found.probabilities, trained()(X).softmax(1))


def test_memory_bounds_the_batch(monkeypatch):
    sizes = []

    class Watch(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1)[:, :3]

    monkeypatch.setattr("stocnoise.attacks.target._ELEMENTS_AT_ONCE", 5 * X.numel())
    stocnoise.predict(Watch(), X, samples=12)
    assert sizes == [200, 200, 80]
    sizes.clear()
    monkeypatch.setattr("stocnoise.attacks.target._ELEMENTS_AT_ONCE", 1)
    stocnoise.predict(Watch(), X, samples=3)
    assert sizes == [40, 40, 40]


def test_mode_and_sigma_stay():
    model = trained(gamma=0.3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stocnoise.predict(model, X)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("x", "samples", "message"), [(X, 0, "samples"), (X[:0], 4, "empty")])
def test_bad_input_is_refused(x, samples, message):
    with pytest.raises(ValueError, match=message):
        stocnoise.predict(trained(), x, samples)


def test_fixed_noise_is_the_same_for_every_call_row_and_batch():
    model = trained(gamma=0.3)
    with torch.no_grad(), stocnoise.fixed_noise(model, 3):
        whole = model(X)
        assert torch.equal(model(X), whole)
        same = model(X[:1].expand(7, -1, -1, -1))
        torch.testing.assert_close(same, same[:1].expand_as(same), atol=1e-4, rtol=1e-4)
        for rows in (slice(5, 6), slice(30, 40), torch.randperm(40)):
            torch.testing.assert_close(model(X[rows]), whole[rows], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(model(X), whole, atol=0.1)


def test_fixed_noise_is_a_function_of_the_seed_and_not_of_the_random_state():
    model = trained(gamma=0.3)
    outputs = []
    for seed, state in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(state)
        with torch.no_grad(), stocnoise.fixed_noise(model, seed):
            outputs.append(model(X))
    assert torch.equal(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2], atol=0.1)


def test_each_layer_has_fixed_noise_of_its_own_that_ends_with_the_block():
    model = trained(gamma=0.3)
    layers = [layer for _, layer in stocnoise.stochastic_layers(model)]
    with pytest.raises(RuntimeError, match="inside"), stocnoise.fixed_noise(model, 0):
        assert len({layer.fixed_seed.item() for layer in layers}) == len(layers)
        raise RuntimeError("inside")
    assert all(layer.fixed_seed is None for layer in layers)


def test_many_fixed_classifiers_average_to_the_stochastic_model():
    model, outputs = trained(gamma=0.1), []
    for seed in range(200):
        with torch.no_grad(), stocnoise.fixed_noise(model, seed):
            outputs.append(model(X).softmax(1))
    fresh = stocnoise.predict(model, X, samples=200)
    error = torch.stack(outputs).std(0) / 200**0.5 + fresh.spread / 200**0.5
    assert ((torch.stack(outputs).mean(0) - fresh.probabilities).abs() <= 4.5 * error + 1e-4).all()


def test_fixed_noise_needs_a_student():
    with pytest.raises(ValueError, match="no stochastic layer"), stocnoise.fixed_noise(nn.ReLU(), 0):
        pass


def test_gradients_pass_through_fixed_noise():
    model = noisy_net(gamma=0.3)
    stocnoise.calibrate(model, [X])
    x = X.clone().requires_grad_()
    with stocnoise.fixed_noise(model.eval(), 0):
        first, second = (torch.autograd.grad(model(x).square().sum(), x)[0] for _ in range(2))
    assert torch.equal(first, second) and first.abs().max() > 0
