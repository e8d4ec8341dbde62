"""What a conversion must leave as it is."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import assert_noisy, assert_same_function, layers

X = torch.randn(2, 4, 6, 6)


class Mixed(nn.Module):
    """A module called once, one called twice, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.once = nn.ReLU()
        self.twice = nn.SiLU()
        self.elu = nn.ELU()
        self.note = ["anything"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.once(self.bn(self.conv(x)))
        x = self.twice(self.conv(self.twice(x)))
        return F.gelu(self.elu(self.conv(x)))


class Fails(Mixed):
    """Cannot be converted: a call whose input is not to be seen."""

    def forward(self, x: Tensor) -> Tensor:
        arguments = (super().forward(x),)
        return F.relu(*arguments)


@pytest.mark.parametrize("inplace", [False, True])
def test_hooks_fire_and_their_handles_remove_them(inplace: bool) -> None:
    teacher = Mixed()
    seen: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: seen.append(name))
        for name, module in teacher.named_modules()
        if name in ("once", "elu", "conv", "")
    ]
    handles.append(teacher.once.register_forward_pre_hook(lambda m, args: seen.append("pre")))
    handles.append(teacher.once.register_full_backward_hook(lambda m, grad_in, grad_out: seen.append("backward")))
    student = stocnoise.convert(teacher, X, inplace=inplace)
    seen.clear()  # of the runs without values
    student(X).sum().backward()
    assert sorted(seen) == sorted(["conv", "pre", "once", "conv", "conv", "elu", "", "backward"])
    if inplace:
        seen.clear()
        for handle in handles:
            handle.remove()
        student(X).sum().backward()
        assert seen == []


def test_a_hook_on_an_alias() -> None:
    shared = nn.ReLU()
    seen: list[int] = []
    handle = shared.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    teacher = nn.Sequential(nn.Conv2d(4, 5, 1), shared, nn.Conv2d(5, 3, 1), shared)
    student = stocnoise.convert(teacher, X, inplace=True)
    seen.clear()
    student(X)
    assert seen == [5, 3]
    handle.remove()
    student(X)
    assert seen == [5, 3]


def test_hooks_of_aliases_stay_apart_afterwards() -> None:
    shared = nn.ReLU()
    student = stocnoise.convert(nn.Sequential(shared, nn.Conv2d(4, 3, 1), shared), X)
    seen: list[int] = []
    student[2].register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    student(X)
    assert seen == [3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_stays_and_sigma_is_float32(dtype: torch.dtype) -> None:
    teacher = Mixed().to(dtype)
    before = stocnoise.convert(teacher, X.to(dtype))
    after = stocnoise.convert(Mixed(), X).to(dtype)
    for student in (before, after):
        assert {p.dtype for p in student.parameters()} == {dtype}
        assert {layer.sigma.dtype for layer in layers(student).values()} == {torch.float32}
        assert {layer.gamma.dtype for layer in layers(student).values()} == {torch.float32}
        assert student(X.to(dtype)).dtype == dtype
        assert_noisy(student, X.to(dtype))


def test_the_device_stays() -> None:
    with torch.device("meta"):
        teacher = Mixed()
    student = stocnoise.convert(teacher, X.to("meta"))
    assert {p.device.type for p in student.parameters()} == {"meta"}
    assert {b.device.type for b in student.buffers()} == {"meta"}
    real = student.to_empty(device="cpu")
    real.load_state_dict(stocnoise.convert(Mixed(), X).state_dict())
    real(X)


@pytest.mark.gpu
def test_a_model_on_a_gpu() -> None:
    teacher = Mixed().cuda()
    student = stocnoise.convert(teacher, X.cuda())
    assert {b.device.type for b in student.buffers()} == {"cuda"}
    assert_noisy(student, X.cuda())


def test_requires_grad_stays() -> None:
    teacher = Mixed()
    teacher.conv.weight.requires_grad_(False)
    for inplace in (False, True):
        student = stocnoise.convert(copy.deepcopy(teacher), X, inplace=inplace)
        assert [p.requires_grad for p in student.parameters()] == [p.requires_grad for p in teacher.parameters()]
    assert all(not b.requires_grad for b in student.buffers())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_each_module_stays(training: bool) -> None:
    teacher = Mixed().train(training)
    teacher.bn.train(not training)
    teacher.once.train(not training)
    before = {name: module.training for name, module in teacher.named_modules()}
    for student in (stocnoise.convert(teacher, X, check=True), stocnoise.convert(teacher, X, inplace=True)):
        modes = {name: module.training for name, module in student.named_modules()}
        assert {name: modes[name] for name in before} == before
        assert modes["gelu_0"] == training


def test_in_place_is_the_very_object_with_the_very_parameters() -> None:
    teacher = Mixed()
    parameters = dict(teacher.named_parameters())
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
    student = stocnoise.convert(teacher, X, inplace=True)
    assert student is teacher
    assert all(p is parameters[name] for name, p in student.named_parameters())
    before = student.conv.weight.clone()
    student(X).sum().backward()
    optimizer.step()
    assert not torch.equal(student.conv.weight, before)


def test_a_copy_shares_nothing_and_the_original_stays() -> None:
    teacher = Mixed()
    expected, keys = teacher.eval()(X), list(teacher.state_dict())
    student = stocnoise.convert(teacher, X)
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in student.parameters()}
    stocnoise.calibrate(student, [X])
    student.note.append("more")
    assert type(teacher) is Mixed and teacher.note == ["anything"]
    assert list(teacher.state_dict()) == keys
    assert torch.equal(teacher(X), expected)
    assert isinstance(student, Mixed) and type(student).__name__ == "Mixed"


@pytest.mark.parametrize("inplace", [False, True])
def test_a_failure_leaves_the_model_as_it_was(inplace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(model: nn.Module, cls: type[nn.Module]) -> bool:
        return type(model) is cls and not layers(model) and list(model.state_dict()) == keys

    teacher = Fails()
    keys = list(teacher.state_dict())
    modules = list(teacher.modules())
    with pytest.raises(stocnoise.UnsupportedActivationError, match="arguments"):
        stocnoise.convert(teacher, X, inplace=inplace)
    assert unchanged(teacher, Fails) and list(teacher.modules()) == modules

    def broken(*_: Any) -> None:
        raise stocnoise.ConversionError("the last check failed")

    teacher = Mixed()
    handle = teacher.once.register_forward_hook(lambda m, args, out: None)
    modules = list(teacher.modules())
    monkeypatch.setattr(sys.modules["stocnoise.conversion.convert"], "audit", broken)
    with pytest.raises(stocnoise.ConversionError, match="the last check"):
        stocnoise.convert(teacher, X, inplace=inplace)
    assert unchanged(teacher, Mixed) and list(teacher.modules()) == modules
    assert len(teacher.once._forward_hooks) == 1
    handle.remove()
    assert len(teacher.once._forward_hooks) == 0


class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(F.relu(x))).mean((2, 3)))


def test_parametrizations() -> None:
    teacher = Parametrized()
    student = stocnoise.convert(teacher, X)
    assert len(layers(student)) == 2
    assert_same_function(teacher, student, X)
    assert set(teacher.state_dict()) < set(student.state_dict())


class ParametrizedOwner(nn.Conv2d):
    """The class is parametrised, and calls the activation itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(F.relu(x)))


def test_a_class_that_is_parametrised_itself() -> None:
    teacher = nn.Sequential(nn.utils.parametrizations.weight_norm(ParametrizedOwner(4, 4, 1)))
    student = stocnoise.convert(teacher, X)
    assert len(layers(student)) == 2
    assert_same_function(teacher, student, X)


def test_parameters_of_an_activation_stay() -> None:
    teacher = nn.Sequential(nn.Conv2d(4, 4, 1), nn.PReLU(4))
    student = stocnoise.convert(teacher, X)
    assert len(layers(student)) == 1
    assert set(teacher.state_dict()) < set(student.state_dict())
    assert_same_function(teacher, student, X)
