"""Copies, pickles, states and the way back."""

from __future__ import annotations

import copy
import inspect
import io
import linecache
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import assert_noisy, assert_same_function, layers

X = torch.randn(2, 4, 6, 6)


class Lower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(x * 1)))


class Upper(Lower):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self._helper(super().forward(x)))

    def _helper(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.GELU()
        self.body = nn.Sequential(Upper(), shared, nn.BatchNorm2d(4), shared, nn.SELU())
        self.again = self.body[0]
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.body(x))


def ready(teacher: nn.Module | None = None) -> nn.Module:
    student = stocnoise.convert(teacher or Net(), X, gamma=0.2)
    stocnoise.calibrate(student, [X, X])
    return student


def same_draw(a: nn.Module, b: nn.Module) -> bool:
    outputs = []
    for model in (a.eval(), b.eval()):
        torch.manual_seed(3)
        outputs.append(model(X))
    return torch.equal(*outputs)


def test_deepcopy() -> None:
    student = ready()
    duplicate = copy.deepcopy(student)
    assert type(duplicate) is type(student)
    assert same_draw(student, duplicate)
    stocnoise.set_gamma(duplicate, 0.0)
    assert not same_draw(student, duplicate)
    duplicate.train()(10 * X)
    assert not torch.equal(next(iter(layers(duplicate).values())).sigma, next(iter(layers(student).values())).sigma)
    assert_noisy(copy.deepcopy(duplicate), X)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickle(protocol: int) -> None:
    student = ready()
    again = pickle.loads(pickle.dumps(student, protocol))
    assert type(again) is type(student)
    assert [type(m) for m in again.modules()] == [type(m) for m in student.modules()]
    assert again.again is again.body[0]
    assert same_draw(student, again)
    assert type(stocnoise.revert(again)) is Net


def test_torch_save() -> None:
    student = ready()
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    assert same_draw(student, torch.load(file, weights_only=False))


def test_a_teacher_loads_into_a_student_and_sigma_stays() -> None:
    student, teacher = ready(), Net()
    before = {name: layer.sigma.clone() for name, layer in layers(student).items()}
    assert set(teacher.state_dict()) < set(student.state_dict())
    student.load_state_dict(teacher.state_dict(), strict=True)
    assert all(torch.equal(layer.sigma, before[name]) for name, layer in layers(student).items())
    assert torch.equal(student.body[0].conv.weight, teacher.body[0].conv.weight)
    assert_same_function(teacher, student, X)


def test_a_student_loads_into_a_fresh_student() -> None:
    student, fresh = ready(), stocnoise.convert(Net(), X)
    fresh.load_state_dict(student.state_dict(), strict=True)
    assert same_draw(student, fresh)
    with pytest.raises(RuntimeError, match="Missing key"):
        partial = {k: v for k, v in student.state_dict().items() if not k.endswith("num_batches_tracked")}
        fresh.load_state_dict(partial)


def test_a_student_goes_back_into_a_teacher() -> None:
    student, teacher = ready(), Net()
    teacher.load_state_dict(stocnoise.revert(student).state_dict(), strict=True)
    assert_same_function(teacher, student, X)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        teacher.load_state_dict(student.state_dict())


@pytest.mark.parametrize("inplace", [False, True])
def test_revert_is_exact(inplace: bool) -> None:
    teacher = Net()
    seen: list[str] = []
    teacher.body[1].register_forward_hook(lambda m, args, out: seen.append("gelu"))
    student = ready(teacher)
    with torch.no_grad():
        student.body[0].conv.weight.add_(1)
    back = stocnoise.revert(student, inplace=inplace)
    assert (back is student) == inplace
    assert not layers(back) and (inplace or layers(student))
    assert [(name, type(m)) for name, m in back.named_modules()] == [(n, type(m)) for n, m in teacher.named_modules()]
    assert [m.__dict__.keys() for m in back.modules()] == [m.__dict__.keys() for m in teacher.modules()]
    assert back.body[1] is back.body[3] and back.body[0].act.inplace
    assert list(back.state_dict()) == list(teacher.state_dict())
    teacher.load_state_dict(back.state_dict())
    seen.clear()
    assert torch.equal(back.eval()(X), teacher.eval()(X))
    assert seen == ["gelu"] * 4


def test_converting_anew_after_revert() -> None:
    student = ready()
    again = stocnoise.convert(stocnoise.revert(student), X)
    assert set(layers(again)) == set(layers(student))
    again.load_state_dict(student.state_dict(), strict=True)
    assert same_draw(student, again) or stocnoise.set_gamma(again, 0.2) is None
    assert same_draw(student, again)
    twice = stocnoise.revert(stocnoise.convert(stocnoise.revert(again), X))
    assert type(twice.body[0]) is Upper


def test_only_the_instance_is_changed_never_the_class() -> None:
    before = dict(vars(Upper)), dict(vars(Lower))
    ready()
    assert (dict(vars(Upper)), dict(vars(Lower))) == before
    fresh = Net().eval()
    assert torch.equal(fresh(X), fresh(X))


def test_equal_conversions_share_their_classes() -> None:
    a, b = ready(), ready()
    assert type(a.body[0]) is type(b.body[0]) is not Upper
    assert issubclass(type(a.body[0]), Upper)
    assert type(a.body[0]).__qualname__ == "Upper" and type(a.body[0]).__module__ == Upper.__module__


SOURCE = """
import torch.nn.functional as F
from torch import nn

class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.relu(self.conv(x))
"""


def module_from(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    path.write_text(text)
    linecache.checkcache(str(path))
    module = types.ModuleType("changing_model")
    monkeypatch.setitem(sys.modules, "changing_model", module)
    exec(compile(text, str(path), "exec"), vars(module))
    return module


def test_a_pickled_student_whose_source_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "changing_model.py"
    module = module_from(path, SOURCE, monkeypatch)
    data = pickle.dumps(stocnoise.convert(module.Changing(), X))
    assert len(layers(pickle.loads(data))) == 1
    module_from(path, "# another first line\n" + SOURCE.replace("F.relu", "F.silu"), monkeypatch)
    with pytest.raises(stocnoise.ConversionError, match=r"Changing\.forward has changed"):
        pickle.loads(data)


def test_a_class_without_source_is_refused_only_if_it_must_be_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sourceless_model")
    monkeypatch.setitem(sys.modules, "sourceless_model", module)
    exec(compile(SOURCE, "<nowhere>", "exec"), vars(module))
    with pytest.raises(stocnoise.UnsupportedActivationError, match=r"source of Changing\.forward .* cannot be read"):
        stocnoise.convert(module.Changing(), X)
    student = stocnoise.convert(nn.Sequential(module.Changing(), nn.ReLU()), X, exclude="0.*")
    assert list(layers(student)) == ["1"]


def test_the_source_of_a_rewritten_method_can_be_read() -> None:
    student = ready()
    text = inspect.getsource(type(student.body[0]).forward)
    assert "self.silu_0" in text and "def forward(self, x: Tensor)" in text
    assert "def _helper" in inspect.getsource(type(student.body[0])._helper)
