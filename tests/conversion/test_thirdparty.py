"""What judges the models of other people's libraries: it must find what a conversion gets wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from benchmarks.thirdparty.__main__ import table
from benchmarks.thirdparty.counting import count
from benchmarks.thirdparty.entry import Entry
from benchmarks.thirdparty.examine import examine
from benchmarks.thirdparty.limits import EndlessError, NoAnswerError, apart

X = torch.randn(4, 8)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Net(nn.Module):
    """A function, a module written by hand, a module of torch, a gate, and a parameter that is made positive."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.swish, self.act, self.width = Swish(), nn.ReLU(), nn.Parameter(torch.zeros(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.swish(self.a(F.gelu(x)))
        x = self.act(self.b(x)) * self.c(x).sigmoid()
        return x @ F.softplus(self.width)


def net() -> tuple[nn.Module, Tensor]:
    return Net(), X


def test_every_call_is_counted_once() -> None:
    counted = count(Net(), (X,), {}, training=False)
    assert (counted.bare, counted.stochastic.total()) == (3, 0)
    counted = count(stocnoise.convert(Net(), X, gamma=0.0), (X,), {}, training=True)
    assert (counted.bare, counted.stochastic.total()) == (0, 3)


def test_an_exact_conversion() -> None:
    line = examine(Entry("net", net))
    assert line["result"] == "exact", line
    assert (line["train"], line["eval"], line["layers"]) == ([3, 3, 0], [3, 3, 0], 3)


def _perturbed(model: nn.Module, example: Tensor) -> nn.Module:
    student = stocnoise.convert(model, example)
    with torch.no_grad():
        student.c.bias.add_(1e-3)
    return student


class Silent(stocnoise.StocReLUEMA):
    @classmethod
    def for_activation(cls, activation: object) -> type[stocnoise.StochasticActivation]:
        return cls

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


def _without_noise(model: nn.Module, example: Tensor) -> nn.Module:
    return stocnoise.convert(model, example, layer=Silent)


FAULTS = [
    (lambda model, example: stocnoise.convert(model, example, exclude="swish"), "1 left"),
    (_perturbed, "without noise another output"),
    (_without_noise, "noise changes nothing"),
]


@pytest.mark.parametrize(("convert", "says"), FAULTS)
def test_what_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, convert: Callable[[nn.Module, Tensor], nn.Module], says: str
) -> None:
    class Other:
        """The package, with another `convert`."""

        def __getattr__(self, name: str) -> object:
            return convert if name == "convert" else getattr(stocnoise, name)

    monkeypatch.setattr("benchmarks.thirdparty.examine.stocnoise", Other())
    line = examine(Entry("net", net))
    assert line["result"] == "wrong" and says in line["reason"], line


def test_models_that_cannot_be_judged() -> None:
    assert examine(Entry("no class", lambda: (nn.Linear(8, "8"), X)))["result"] == "not built"  # type: ignore
    line = examine(Entry("nothing to convert", lambda: (nn.Linear(8, 8), X)))
    assert line["result"] == "refused" and "NothingConverted" in line["reason"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that this process has threads when it is forked
def test_a_process_of_its_own_is_ended() -> None:
    def endless() -> None:
        while True:
            pass

    assert apart(lambda: 3, 60, 8) == 3
    with pytest.raises(EndlessError, match="1 s of processor time"):
        apart(endless, 1, 8)
    with pytest.raises(NoAnswerError, match="SIGKILL"):
        apart(lambda: os.kill(os.getpid(), signal.SIGKILL), 60, 8)
    assert isinstance(apart(_too_much, 60, 1), MemoryError)


def _too_much() -> object:
    try:
        return len(bytearray(8 * 2**30))
    except MemoryError as error:
        return error


def test_the_table_counts_each_outcome() -> None:
    lines = [
        {"library": "a", "version": "1", "model": "x", "result": "exact", "layers": 2, "seconds": 0.5},
        {"library": "a", "version": "1", "model": "y", "result": "refused", "reason": "no source"},
        {"library": "B", "version": "2", "model": "z", "result": "exact", "layers": 3, "seconds": 1.5},
    ]
    text = table(lines).splitlines()
    assert text[2].split(" | ")[:5] == ["| a", "1", "2", "1", "1"]
    assert text[4].split(" | ")[:5] == ["| all", "", "3", "2", "1"]
    assert text[-1] == "- a y: refused: no source"
