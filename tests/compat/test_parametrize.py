"""Parametrised weights, on a teacher before its conversion and on a student after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import stocnoise
from tests.compat.models import SITES, Small, images, small_student


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def _halve(module: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(module, "weight", _Halved())


WAYS = [_halve, parametrizations.weight_norm, parametrizations.spectral_norm, torch.nn.utils.spectral_norm]


@pytest.mark.parametrize("way", WAYS, ids=["own", "weight_norm", "spectral_norm", "old spectral_norm"])
def test_a_parametrised_teacher_converts(way: Callable[[nn.Module], nn.Module]) -> None:
    teacher = Small()
    way(teacher.conv1)
    way(teacher.fc1)
    teacher.eval()
    student = stocnoise.convert(teacher, images(), gamma=0.5, check=True)
    assert len(list(stocnoise.stochastic_layers(student))) == SITES
    stocnoise.set_gamma(student, 0.0)
    assert torch.equal(student(images()), teacher(images()))
    student.train()(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("way", WAYS, ids=["own", "weight_norm", "spectral_norm", "old spectral_norm"])
def test_a_student_can_be_parametrised(way: Callable[[nn.Module], nn.Module]) -> None:
    student = small_student(gamma=0.0)
    before = student(images())
    way(student.conv1)
    after = student(images())
    assert torch.equal(before, after) == (way is parametrizations.weight_norm) or torch.allclose(before, after)
    assert len(list(stocnoise.stochastic_layers(student))) == SITES
    teacher = stocnoise.revert(student, inplace=True)  # torch itself cannot copy a module with an old spectral norm
    assert not any(isinstance(module, stocnoise.StochasticActivation) for module in teacher.modules())
    torch.testing.assert_close(teacher(images()), after)


def test_a_parametrised_owner_of_functional_calls_converts() -> None:
    """Its class is made by torch already when `convert` derives from it."""

    class Owner(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    owner = _halve(Owner(4, 4))
    student = stocnoise.convert(owner, torch.zeros(2, 4))
    assert [name for name, _ in stocnoise.stochastic_layers(student)] == ["relu_0"]
    x = torch.randn(3, 4)
    stocnoise.set_gamma(student, 0.0)
    assert torch.equal(student(x), owner(x))


def test_a_student_that_was_parametrised_where_calls_are_rewritten_says_so_on_revert() -> None:
    class Owner(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    student = stocnoise.convert(Owner(4, 4), torch.zeros(2, 4))
    _halve(student)
    with pytest.raises(stocnoise.ConversionError, match="remove_parametrizations"):
        stocnoise.revert(student)
    parametrize.remove_parametrizations(student, "weight")
    assert type(stocnoise.revert(student)) is Owner
