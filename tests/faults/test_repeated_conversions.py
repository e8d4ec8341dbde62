"""Many conversions in one process: what one made goes with its student, so memory is flat."""

from __future__ import annotations

import gc
import inspect
import linecache
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers

X = torch.rand(2, 4)


def fresh() -> nn.Module:
    """Of classes of its own, as where a cell of a notebook runs again; it asks its activation for its class."""

    class Act(nn.ReLU):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.own = nn.Linear(4, 4), nn.ReLU(), Act()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.a(self.act(x)))
            return F.gelu(self.own(x) if isinstance(self.own, Act) else x)

    return Net()


def counts() -> dict[str, int]:
    for _ in range(3):  # classes hold each other in circles
        gc.collect()
    objects = gc.get_objects()
    return {
        "classes": sum(issubclass(type(each), type) for each in objects),
        "sources": len(linecache.cache),
        "modules": len(sys.modules),
        "objects": len(objects),
    }


def test_thirty_conversions() -> None:
    convert_often(30)


@pytest.mark.slow
def test_a_thousand_conversions() -> None:
    convert_often(1_000)


def convert_often(times: int) -> None:
    for _ in range(3):
        stocnoise.convert(fresh(), X)
    before = counts()
    for _ in range(times):
        stocnoise.revert(stocnoise.convert(fresh(), X))
    after = counts()
    assert after["objects"] - before["objects"] < times / 2  # a few from elsewhere, but none for each conversion
    del before["objects"], after["objects"]
    assert after == before


@pytest.fixture
def cells() -> Iterator[list[str]]:
    """Names of sources that the test puts into `linecache`."""
    names: list[str] = []
    yield names
    for name in names:
        linecache.cache.pop(name, None)


def test_the_source_of_a_student_goes_with_the_last_one_that_has_it(cells: list[str]) -> None:
    def net(number: int) -> nn.Module:
        """Its code is another for each number."""
        text = f"def forward(self, x):\n    return F.relu(F.silu(x) + {number})\n"
        cells.append(f"<cell {number}>")
        linecache.cache[cells[-1]] = (len(text), None, text.splitlines(keepends=True), cells[-1])
        made: dict[str, object] = {"F": F}
        exec(compile(text, cells[-1], "exec"), made)
        return type("Cell", (nn.Module,), {"forward": made["forward"]})()

    def ours() -> set[str]:
        gc.collect()
        return {name for name in linecache.cache if name.startswith("<stocnoise")}

    before = ours()
    one, two = stocnoise.convert(net(1), X), stocnoise.convert(net(2), X)
    twin = stocnoise.convert(net(1), X)  # of another class, with the same source
    assert len(ours() - before) == 2
    assert "+ 1" in inspect.getsource(type(one).forward) and "+ 2" in inspect.getsource(type(two).forward)
    del one, two
    assert len(ours() - before) == 1
    assert "+ 1" in inspect.getsource(type(twin).forward)
    twin(X)
    del twin
    assert ours() == before


def test_students_of_one_class_share_theirs_while_any_lives() -> None:
    model = fresh()
    first, second = stocnoise.convert(model, X), stocnoise.convert(model, X)
    assert type(first) is type(second)
    del first
    gc.collect()
    assert type(stocnoise.convert(model, X)) is type(second)
    assert len(layers(second)) == 4
