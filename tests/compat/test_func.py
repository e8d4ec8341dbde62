"""torch.func on a student: functional_call, grad, vmap over noise and over models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

import stocnoise
from tests.compat.models import images, small_student


def test_functional_call_is_the_call() -> None:
    student = small_student()
    state = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    torch.manual_seed(2)
    expected = student(images())
    torch.manual_seed(2)
    assert torch.equal(functional_call(student, state, (images(),)), expected)


def test_grad_is_that_of_backward() -> None:
    student = small_student()
    parameters = dict(student.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(2)
        return functional_call(student, parameters, (images(),)).square().mean()

    gradients = grad(loss)({name: p.detach() for name, p in parameters.items()})
    loss(parameters).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_vmap_with_different_randomness_gives_each_example_noise_of_its_own() -> None:
    student = small_student()
    x = images(1)[0].expand(6, 3, 8, 8)
    with torch.no_grad():
        y = vmap(lambda one: student(one.unsqueeze(0)).squeeze(0), randomness="different")(x)
    assert y.shape == (6, 5)
    assert len({tuple(row) for row in y.tolist()}) == 6


def test_vmap_with_the_same_randomness_gives_all_examples_one_noise() -> None:
    student = small_student()
    x = images(1)[0].expand(6, 3, 8, 8)
    with torch.no_grad():
        y = vmap(lambda one: student(one.unsqueeze(0)).squeeze(0), randomness="same")(x)
    assert torch.equal(y, y[:1].expand(6, 5))
    assert y.abs().sum() > 0


def test_vmap_at_gamma_zero_is_the_batched_call() -> None:
    student = small_student(gamma=0.0)
    y = vmap(lambda one: student(one.unsqueeze(0)).squeeze(0), randomness="different")(images())
    torch.testing.assert_close(y, student(images()))


@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
@pytest.mark.parametrize("dim", [0, 2])
def test_the_operation_under_vmap_is_the_operation_in_a_loop(activation: str, dim: int) -> None:
    x = torch.randn(3, 4, 5, 6).movedim(0, dim)
    sigma, gamma = torch.rand(3, 4), torch.tensor(0.3)
    seeds = torch.arange(3).unsqueeze(1)

    def one(x: Tensor, sigma: Tensor, seed: Tensor) -> Tensor:
        return stocnoise.functional.stoc_act(x, sigma, gamma, seed, activation=activation, channel_dim=0)

    together = vmap(one, in_dims=(dim, 0, 0))(x, sigma, seeds)
    alone = torch.stack([one(x.select(dim, i), sigma[i], seeds[i]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_per_example_gradients() -> None:
    student = small_student(gamma=0.0)
    parameters = {name: p.detach() for name, p in student.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(student, parameters, (x.unsqueeze(0),)).square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, images())
    summed = grad(lambda p: functional_call(student, p, (images(),)).square().sum())(parameters)
    for name in parameters:
        torch.testing.assert_close(gradients[name].sum(0), summed[name], rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_students_in_one_call() -> None:
    students = [small_student(gamma=0.0) for _ in range(3)]
    with torch.no_grad():
        for scale, student in enumerate(students):
            student.fc2.weight.mul_(scale)
    parameters, buffers = stack_module_state(students)
    x = images()
    y = vmap(lambda p, b: functional_call(students[0], (p, b), (x,)), randomness="different")(parameters, buffers)
    torch.testing.assert_close(y, torch.stack([student(x) for student in students]))
