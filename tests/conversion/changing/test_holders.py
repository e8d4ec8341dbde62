"""Modules that are reached past their names: in plain containers, and by bound methods."""

from __future__ import annotations

import copy
import functools
import pickle
from collections import UserList, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers

X = torch.randn(4, 8)


class Walk(nn.Module):
    """Layers that are registered, and also kept in a container that forward walks."""

    def __init__(self, how: str) -> None:
        super().__init__()
        steps = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU()]
        for number, step in enumerate(steps):
            self.add_module(f"step{number}", step)
        containers: dict[str, Any] = {
            "list": steps,
            "tuple": tuple(steps),
            "dict": dict(enumerate(steps)),
            "nested": {"a": [tuple(steps[:2])], "b": steps[2:]},
            "deque": deque(steps),
            "own list": UserList(steps),
            "object": SimpleNamespace(steps=steps),
        }
        self.walk = containers[how]

    def forward(self, x: Tensor) -> Tensor:
        walk = self.walk
        if isinstance(walk, dict) and "a" in walk:
            walk = [*walk["a"][0], *walk["b"]]
        walk = getattr(walk, "steps", walk)
        for step in walk.values() if isinstance(walk, dict) else walk:
            x = step(x)
        return x


class Bound(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(8, 8), nn.ReLU()
        act = self.act
        ways: dict[str, Any] = {
            "call": act.__call__,
            "forward": act.forward,
            "lambda": lambda x: act(x),
            "partial": functools.partial(act.__call__),
            "of self": self.part,
        }
        self.run = ways[how]

    def part(self, x: Tensor) -> Tensor:
        return F.relu(x) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.a(x))


class InSet(nn.Module):
    """Reached through a set alone."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(8, 8), nn.ReLU()
        self.acts = kind([self.act])

    def forward(self, x: Tensor) -> Tensor:
        for act in self.acts:
            x = act(self.a(x))
        return x


class Forward(nn.Module):
    """Another method is what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.forward = self.fused  # type: ignore[method-assign]

    def fused(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))


MODELS = [
    *(functools.partial(Walk, how) for how in ("list", "tuple", "dict", "nested", "deque", "own list", "object")),
    *(functools.partial(Bound, how) for how in ("call", "forward", "lambda", "of self")),
    *(functools.partial(InSet, kind) for kind in (set, frozenset)),
    Forward,
]


@pytest.mark.parametrize("model", MODELS)
def test_it_is_converted_and_back(model: Any) -> None:
    teacher = model()
    student = converted(teacher, X)
    assert len(layers(student)) == (2 if isinstance(teacher, Walk) else 1)
    back = stocnoise.revert(student)
    assert not layers(back) and torch.equal(back(X), teacher(X))
    assert len(layers(stocnoise.convert(back, X))) == len(layers(student))


@pytest.mark.parametrize("model", MODELS)
def test_in_place_and_back(model: Any) -> None:
    teacher = model()
    expected = teacher(X)
    stocnoise.convert(teacher, X, inplace=True)
    assert layers(teacher)
    stocnoise.revert(teacher, inplace=True)
    assert not layers(teacher) and torch.equal(teacher(X), expected)


def test_a_copy_of_a_student_walks_its_own_layers() -> None:
    student = stocnoise.convert(Walk("list"), X, gamma=0.5)
    duplicate = copy.deepcopy(student)
    stocnoise.calibrate(duplicate, [X])
    assert all(layer.sigma.sum() > 0 for layer in layers(duplicate).values())
    assert all(layer.sigma.sum() == 0 for layer in layers(student).values())


class Asks(nn.Module):
    """Returns a map after each layer of which `ask` says so."""

    def __init__(self, ask: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU(0.2))
        self.body[1].wanted = True
        self.ask = ask

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.body:
            x = layer(x)
            if self.ask(layer):
                outputs.append(x)
        return [*outputs, x]


def wanted(layer: nn.Module) -> bool:
    return getattr(layer, "wanted", False)


def has_slope(layer: nn.Module) -> bool:
    return hasattr(layer, "negative_slope")


def is_relu(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.ReLU, nn.LeakyReLU))


def is_called_relu(layer: nn.Module) -> bool:
    return type(layer).__name__ == "ReLU"


@pytest.mark.parametrize("ask", [wanted, has_slope, is_relu, is_called_relu])
def test_what_a_model_asks_its_activations_keeps_its_answer(ask: Any) -> None:
    teacher = Asks(ask)
    student = converted(teacher, X)
    assert len(student(X)) == len(teacher(X)) > 1
    for other in (copy.deepcopy(student), stocnoise.revert(student)):
        assert len(other(X)) == len(teacher(X))


def test_isinstance_is_answered_only_where_it_is_asked() -> None:
    assert not isinstance(stocnoise.convert(Asks(wanted), X).body[1], nn.ReLU)
    layer = stocnoise.convert(Asks(is_relu), X).body[1]
    assert isinstance(layer, nn.ReLU) and isinstance(layer, stocnoise.StocReLUEMA)
    assert type(layer).__name__ == "StocReLUEMA"
    layer = stocnoise.convert(Asks(is_called_relu), X).body[1]
    assert type(layer).__name__ == "ReLU" and isinstance(layer, stocnoise.StocReLUEMA)


def test_a_student_that_is_asked_for_a_name_is_saved_and_copied(tmp_path: Path) -> None:
    student = stocnoise.convert(Asks(is_called_relu), X, gamma=0.5)
    stocnoise.calibrate(student, [X])
    stocnoise.save(student, tmp_path / "s.safetensors")
    for other in (
        stocnoise.load(tmp_path / "s.safetensors", Asks(is_called_relu)),
        pickle.loads(pickle.dumps(student)),
    ):
        outputs = []
        for model in (student, other):
            torch.manual_seed(0)
            outputs.append(model.eval()(X))
        assert all(map(torch.equal, *outputs))


class Scaled(nn.Module):
    """The slope is read off the module, for what follows it; or its kind, without a trace in the shapes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.act, self.how = nn.Linear(8, 8), nn.LeakyReLU(0.2), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        if self.how == "slope":
            return y * (1 + self.act.negative_slope**2) ** -0.5
        return y * (3.0 if type(self.act) is nn.LeakyReLU else 1.0)


def test_a_slope_that_is_read_is_there() -> None:
    converted(Scaled("slope"), X)


def test_what_cannot_be_answered_is_refused_and_never_silently_wrong() -> None:
    teacher = Scaled("class")
    expected = teacher(X)
    for inplace in (False, True):
        with pytest.raises(stocnoise.UnsupportedActivationError, match="computes something else"):
            stocnoise.convert(teacher, X, inplace=inplace)
        assert type(teacher.act) is nn.LeakyReLU and torch.equal(teacher(X), expected)
    with pytest.raises(stocnoise.UnsupportedActivationError, match="computes something else"):
        stocnoise.convert(Asks(lambda layer: type(layer) is nn.ReLU), X)
