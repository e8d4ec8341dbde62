"""What is proved of a student, what that takes, and that it ends."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers

X = torch.rand(4, 8)


class Adaptive(nn.Module):
    """Euler steps, halved until one step and two half steps agree, as an adaptive solver does."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, y: Tensor) -> Tensor:
        t, h = 0.0, 0.5
        while t < 1.0:
            whole = y + h * self.f(y)
            half = y + h / 2 * self.f(y)
            halves = half + h / 2 * self.f(half)
            if (whole - halves).abs().max() < 1e-3:
                y, t, h = halves, t + h, h * 1.5
            else:
                h = h / 2
        return y


def test_a_conversion_ends_where_the_noise_would_keep_it_running() -> None:
    student = stocnoise.convert(Adaptive(), X)
    assert list(layers(student)) == ["f.1"]


class Table(nn.Module):
    """Columns of a table in one float tensor: the first is a category."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp = nn.Embedding(4, 4), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.embed(x[:, 0].long()), x[:, 1:]], 1))


def test_the_check_takes_the_example_itself_where_random_numbers_mean_nothing() -> None:
    x = torch.cat([torch.arange(4).float().view(4, 1), torch.rand(4, 2)], 1)
    stocnoise.convert(Table(), x, check=True)


class Holds(nn.Module):
    def __init__(self, thing: object) -> None:
        super().__init__()
        self.a, self.act, self.thing = nn.Linear(8, 8), nn.ReLU(), thing

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))


def rows() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("kind", ["lock", "generator", "tensor", "in a list"])
def test_a_model_that_cannot_be_copied_is_converted_in_place_or_told_what_holds_it(kind: str) -> None:
    thing = {
        "lock": threading.Lock(),
        "generator": rows(),
        "tensor": torch.ones(1, requires_grad=True) * 2,
        "in a list": [1, {"a": threading.Lock()}],
    }[kind]
    with pytest.raises(stocnoise.ConversionError, match=r"cannot be copied, because of thing .*inplace=True"):
        stocnoise.convert(Holds(thing), X)
    assert list(layers(stocnoise.convert(Holds(thing), X, inplace=True))) == ["act"]
    assert len(stocnoise.find_sites(Holds(thing), X)) == 1


class Scripted(nn.Module):
    """A function that TorchScript compiled applies an activation."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.function = torch.jit.script(bias_gelu)
        self.a, self.act = nn.Linear(8, 8), nn.ReLU()
        with torch.no_grad():
            for _ in range(runs):
                self(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.function(self.a(x), self.a.bias))


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x + bias)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("runs", [0, 3])
def test_an_activation_in_compiled_code_is_seen(runs: int) -> None:
    with pytest.raises(stocnoise.UnsupportedActivationError, match="gelu"):
        stocnoise.convert(Scripted(runs), X)
    student = stocnoise.convert(Scripted(runs), X, exclude="gelu")
    assert list(layers(student)) == ["act"]
    assert [item.activation for item in stocnoise.summary(student).left] == ["gelu"]


class Recurrent(nn.Module):
    def __init__(self, cell: bool) -> None:
        super().__init__()
        self.r = nn.RNNCell(8, 8, nonlinearity="relu") if cell else nn.RNN(8, 8, nonlinearity="relu", batch_first=True)
        self.b, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.r(x) if isinstance(self.r, nn.RNNCell) else self.r(x[:, None])[0][:, 0]
        return self.act(self.b(y))


@pytest.mark.parametrize("cell", [False, True])
def test_recurrent_relus_are_left_by_name(cell: bool) -> None:
    student = stocnoise.convert(Recurrent(cell), X)
    assert list(layers(student)) == ["act"]
    (left,) = stocnoise.summary(student).left
    assert (left.name, left.activation) == ("r", "relu") and "recurrent" in left.reason


def test_an_alias_of_what_is_called_is_not_listed_as_never_called() -> None:
    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = nn.Linear(8, 8), nn.ReLU()
            self.nonlinearity = self.act
            self.unused = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.a(x))

    student = stocnoise.convert(Alias(), X)
    assert [item.name for item in stocnoise.summary(student).left] == ["unused"]


class Grouped(nn.Module):
    """Calls an operator that has no fake version here, so the run is made with values."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.act = nn.Parameter(torch.randn(2, 16, 16)), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch._grouped_mm(x, self.w, offs=torch.tensor([4, 8], dtype=torch.int32)))


def test_a_conversion_is_silent() -> None:
    """PyTorch would log a traceback of each such operator."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(handler)
    try:
        assert len(layers(stocnoise.convert(Grouped(), torch.rand(8, 16)))) == 1
    finally:
        log.removeHandler(handler)
    assert not records and not log.disabled


class Written(nn.Module):
    """Writes into what the activation gave: what the student calls must be the same all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).mul_(2).add_(x)


def test_calls_around_an_activation_are_compared() -> None:
    student = stocnoise.convert(nn.Sequential(nn.Linear(8, 8), Written()), X, check=True)
    assert len(layers(student)) == 1
