"""The noises of the baselines, as layers of `convert`."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import training_models as tiny
from torch import nn

import stocnoise
from stocnoise import Learn2Perturb, StocFixed, StochasticActivation, StocL2P, stochastic_layers
from stocnoise.activations import Activation

RELU = Activation("relu")


@pytest.mark.parametrize("activation", [RELU, Activation("gelu"), nn.Tanh()])
@pytest.mark.parametrize("channel_dim", [1, -1])
def test_learned_sigma_has_the_pathwise_gradient(activation: Activation | nn.Module, channel_dim: int) -> None:
    x = torch.randn(6, 4, 4, dtype=torch.float64)
    layer = StocL2P(4, activation=activation, gamma=0.3, channel_dim=channel_dim)
    layer.sigma.data = torch.rand(4, dtype=torch.float64) + 0.5
    torch.manual_seed(7)
    y = layer(x)
    y.square().sum().backward()

    sigma = layer.sigma.detach().clone().requires_grad_()
    ones = StocFixed(4, activation=Activation("identity"), gamma=1.0, channel_dim=channel_dim)
    torch.manual_seed(7)
    z = ones(torch.zeros_like(x))
    shape = [-1 if d == channel_dim % 3 else 1 for d in range(3)]
    expected = activation(x + 0.3**0.5 * sigma.view(shape) * z)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.sigma.grad, sigma.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [StocFixed, StocL2P])
def test_noise_has_the_stated_scale_in_train_and_eval(kind: type[StochasticActivation]) -> None:
    layer = kind(3, activation=Activation("identity"), gamma=0.25)
    with torch.no_grad():
        layer.sigma.copy_(torch.tensor([0.0, 1.0, 4.0]))
    x = torch.full((200, 3, 20, 20), 5.0)
    for mode in (True, False):
        y = layer.train(mode)(x).detach()
        torch.testing.assert_close(y.std((0, 2, 3)), torch.tensor([0.0, 0.5, 2.0]), rtol=0.02, atol=1e-6)
    assert layer.sigma.tolist() == [0.0, 1.0, 4.0]


@pytest.mark.parametrize("kind", [StocFixed, StocL2P])
def test_converted_students_behave_as_students_do(kind: type[StochasticActivation], tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.rand(5, 1, 6, 6)
    student = stocnoise.convert(teacher, x, layer=kind)
    assert [type(layer) for _, layer in stochastic_layers(student)] == [kind]
    assert not torch.equal(student(x), student(x))
    with stocnoise.deterministic(student):
        assert torch.equal(student(x), teacher(x))
    with stocnoise.fixed_noise(student, 1):
        assert torch.equal(student(x)[:2], student(x[:2]))
    student.load_state_dict(teacher.state_dict())
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        other.load_state_dict(student.state_dict())
        assert tiny.same(other.state_dict(), student.state_dict())
    stocnoise.save(student, tmp_path / "student.safetensors")
    loaded = stocnoise.load(tmp_path / "student.safetensors", teacher)
    assert tiny.same(loaded.state_dict(), student.state_dict())
    stocnoise.set_gamma(student, 0.0)
    assert torch.equal(student(x), teacher(x))


def test_learn2perturb_schedule_regulariser_and_floor() -> None:
    model = tiny.student(StocL2P)
    kinds: list[set[str]] = []
    gammas: list[float] = []
    smallest: list[float] = []

    class Watch(stocnoise.Callback):
        def on_step_end(self, run: stocnoise.training.Run) -> None:
            gammas.append(model[2].gamma.item())
            smallest.append(min(layer.sigma.min().item() for _, layer in stochastic_layers(model)))

    class Spy(Learn2Perturb):
        def __call__(self, step: stocnoise.Step) -> torch.Tensor:
            loss = super().__call__(step)
            kinds.append(set(step.correct))
            return loss + 1e5 * (model[2].sigma.sum() + model[5].sigma.sum())  # pulls it far below the floor

    objective = Spy(weight=0.0, noise_after=1, adversarial_after=2)
    tiny.finetune(model, epochs=3, objective=objective, callbacks=[Watch()], lr=1e-3)
    assert gammas == [0.0] * 3 + [1.0] * 6
    assert kinds == [{"clean"}] * 6 + [{"clean", "adversarial"}] * 3
    assert smallest == pytest.approx([0.01] * 9)


def test_learn2perturb_regulariser_is_the_stated_one() -> None:
    model = tiny.student(StocL2P).train()
    x, y = tiny.data(8).tensors
    for epoch, harmonic in ((1, 1.0), (2, 1.5), (3, 11 / 6)):
        for layer in (model[2], model[5]):
            layer.sigma.grad = None
        stocnoise.set_gamma(model, 0.0)  # no gradient of sigma but the regulariser's
        step = stocnoise.Step(model, x, y, tiny.ATTACK, epoch=epoch)
        Learn2Perturb(weight=0.3, noise_after=1, adversarial_after=9)(step).backward()
        expected = -0.3 / harmonic * 0.5 / model[2].sigma.detach().sqrt()
        torch.testing.assert_close(model[2].sigma.grad, expected)
