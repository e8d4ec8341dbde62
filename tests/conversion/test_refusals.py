"""What cannot be converted is refused by an error of its own class that says which module and what to do."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers

X = torch.randn(2, 4, 6, 6)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.act(self.conv(x)))


class Inside(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.part(x))


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's class of this name, whose construction needs several processes."""

    __module__ = "torch.distributed.fsdp"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Lookalike(nn.Module):
    """A class of the user's that happens to have such a name."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


Lookalike.__name__ = "DataParallel"


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp(process_group: None) -> None:
    wrapped = nn.parallel.DistributedDataParallel(Small())
    with pytest.raises(stocnoise.WrappedModelError, match=r"DistributedDataParallel\(stocnoise.convert\(model\)\)"):
        stocnoise.convert(wrapped, X)
    with pytest.raises(stocnoise.WrappedModelError, match="'part'"):
        stocnoise.find_sites(Inside(wrapped), X)
    student = nn.parallel.DistributedDataParallel(stocnoise.convert(Small(), X))
    student(X).sum().backward()
    assert all(layer.num_batches_tracked == 1 for layer in layers(student).values())


@pytest.mark.parametrize("wrap", [nn.DataParallel, FullyShardedDataParallel])
def test_other_wrappers(wrap: type[nn.Module]) -> None:
    with pytest.raises(stocnoise.WrappedModelError, match=wrap.__name__):
        stocnoise.convert(wrap(Small()), X)
    with pytest.raises(stocnoise.WrappedModelError, match=r"module 'part' .*wrap the student"):
        stocnoise.convert(Inside(wrap(Small())), X)


def test_a_name_alone_is_no_reason() -> None:
    assert len(layers(stocnoise.convert(Lookalike(), X))) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_script_modules(how: str) -> None:
    scripted = torch.jit.script(Small()) if how == "script" else torch.jit.trace(Small(), X)
    with pytest.raises(stocnoise.ScriptedModelError, match=r"this model .*before torch.jit"):
        stocnoise.convert(scripted, X)
    model = Inside(scripted)
    for inplace in (False, True):
        with pytest.raises(stocnoise.ScriptedModelError, match="module 'part'"):
            stocnoise.convert(model, X, inplace=inplace)
    assert type(model.act) is nn.ReLU and type(model) is Inside


def test_converting_twice() -> None:
    student = stocnoise.convert(Small(), X)
    for again in (student, Inside(student), nn.Sequential(stocnoise.StocReLUEMA(4))):
        with pytest.raises(stocnoise.AlreadyConvertedError, match="revert"):
            stocnoise.convert(again, X)
    assert len(layers(student)) == 2


def test_a_compiled_model_is_unwrapped() -> None:
    teacher = Small()
    compiled = torch.compile(teacher, backend="eager")
    student = stocnoise.convert(compiled, X)
    assert isinstance(student, Small)
    assert not any("_orig_mod" in name for name in layers(student))
    assert stocnoise.convert(compiled, X, inplace=True) is teacher
    with pytest.raises(stocnoise.AlreadyConvertedError):
        stocnoise.convert(torch.compile(student, backend="eager"), X)
    assert type(stocnoise.revert(torch.compile(student, backend="eager"))) is Small


def test_a_compiled_part() -> None:
    model = Inside(torch.compile(Small(), backend="eager"))  # type: ignore[arg-type]
    student = stocnoise.convert(model, X)
    assert len(layers(student)) == 3
    assert not torch.equal(*_two_passes(student))


def _two_passes(student: nn.Module) -> tuple[Tensor, Tensor]:
    stocnoise.set_gamma(student, 1.0)
    student.train()(X)
    return student(X), student(X)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()), nn.Identity()])
def test_nothing_to_convert(model: nn.Module) -> None:
    x = torch.randn(2, 3) if isinstance(model, nn.Linear) else X
    with pytest.raises(stocnoise.NothingConvertedError, match="no activation"):
        stocnoise.convert(model, x)
    assert stocnoise.find_sites(model, x) == []


def test_where_there_are_only_gates_nobody_is_sent_for_another_example() -> None:
    with pytest.raises(stocnoise.NothingConvertedError, match=r"nn\.LSTM and nn\.GRU compute nothing but gates"):
        stocnoise.convert(nn.LSTM(8, 16, batch_first=True), torch.rand(2, 5, 8))


def test_nothing_left_by_the_filters_says_what_there_was() -> None:
    with pytest.raises(stocnoise.NothingConvertedError) as caught:
        stocnoise.convert(nn.Sequential(Small(), nn.Sigmoid()), X, exclude="*")
    assert "0.act: relu, excluded" in str(caught.value)
    assert "0.silu: silu, excluded" in str(caught.value)
    assert "1: sigmoid, a gate" in str(caught.value)


def test_an_example_that_does_not_run() -> None:
    with pytest.raises(stocnoise.ExampleInputError, match="pass example_input"):
        stocnoise.convert(Small())
    with pytest.raises(stocnoise.ExampleInputError, match="check example_input"):
        stocnoise.convert(Small(), torch.randn(2, 3, 6, 6))


def test_lazy_parameters() -> None:
    model = nn.Sequential(nn.LazyConv2d(5, 1), nn.ReLU())
    with pytest.raises(stocnoise.ConversionError, match="module '0' has lazy parameters: run the model once"):
        stocnoise.convert(model, X)
    model(X)
    assert len(layers(stocnoise.convert(model, X))) == 1


def test_what_is_no_module() -> None:
    for wrong in (torch.relu, "resnet18", None):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
            stocnoise.convert(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"alpha": 2.0}, {"gamma": -1.0}, {"include": 3}, {"exclude": [int]}])
def test_settings_out_of_range_change_nothing(settings: dict[str, object]) -> None:
    teacher = Small()
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        stocnoise.convert(teacher, X, inplace=True, **settings)  # type: ignore[arg-type]
    assert type(teacher) is Small and not layers(teacher)


def test_a_wrong_example_is_told_with_one_traceback_of_the_model() -> None:
    with pytest.raises(stocnoise.ExampleInputError, match="did not run") as caught:
        stocnoise.convert(Small(), torch.rand(2, 7, 5, 5))
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError) and cause.__context__ is None


def test_controls_on_a_model_that_is_no_student() -> None:
    for call in (
        lambda m: stocnoise.set_gamma(m, 0.1),
        lambda m: stocnoise.freeze_sigma(m),
        lambda m: stocnoise.calibrate(m, [X]),
        lambda m: stocnoise.revert(m),
    ):
        with pytest.raises(ValueError, match="convert"):
            call(Small())


def test_every_error_is_caught_as_one() -> None:
    for error in (
        stocnoise.NothingConvertedError,
        stocnoise.UnsupportedActivationError,
        stocnoise.WrappedModelError,
        stocnoise.ScriptedModelError,
        stocnoise.AlreadyConvertedError,
        stocnoise.ExampleInputError,
    ):
        assert issubclass(error, stocnoise.ConversionError)
    assert issubclass(stocnoise.ConversionError, stocnoise.StocnoiseError)


def test_a_model_that_cannot_be_copied() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        conv = nn.utils.weight_norm(nn.Conv2d(4, 5, 1))
    conv(X)  # from now on its weight is no leaf
    teacher = nn.Sequential(conv, nn.ReLU())
    with pytest.raises(RuntimeError):
        copy.deepcopy(teacher)
    with pytest.raises(stocnoise.ConversionError, match="inplace=True"):
        stocnoise.convert(teacher, X)
    expected = teacher(X)
    student = stocnoise.convert(teacher, X, inplace=True)
    assert student is teacher
    assert torch.equal(student.train()(X), expected)
