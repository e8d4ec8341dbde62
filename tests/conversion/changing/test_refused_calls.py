"""Calls that cannot be rewritten: refused with their place, and a way round."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers

X = torch.randn(2, 4, 6, 6)


class Calls(nn.Module):
    """A convolution whose output goes through whatever `forward` of the subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 1)


class PlainList(Calls):
    """One call in the source reaches a convolution and an activation in turn."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.steps = [self.conv, act, nn.Conv2d(5, 5, 1), act]
        self.act, self.last = act, self.steps[2]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class OtherFunction(Calls):
    def forward(self, x: Tensor) -> Tensor:
        for f in (F.relu, torch.exp):
            x = f(x)
        return x


class HelperOrFunction(Calls):
    def forward(self, x: Tensor) -> Tensor:
        for f in (self._step, F.relu):
            x = f(x)
        return x

    def _step(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


class PropertyTwice(Calls):
    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return self.hidden + self.hidden

    @property
    def hidden(self) -> Tensor:
        return F.relu(self.conv(self.x))


class NoDef(Calls):
    forward = lambda self, x: F.relu(self.conv(x))  # noqa: E731


class StarredInput(Calls):
    def forward(self, x: Tensor) -> Tensor:
        arguments = (self.conv(x),)
        return F.relu(*arguments)


def fancy(x: Tensor) -> Tensor:
    y = F.relu(x)
    return y * y


class Fancy(Calls):
    """A function that is handed on, so that its call is not to be seen."""

    def forward(self, x: Tensor) -> Tensor:
        return functools.partial(functools.partial(fancy), self.conv(x))()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Fancy, "fancy"),
        (StarredInput, "F.relu(*arguments)"),
        (PlainList, "other functions"),
        (OtherFunction, "other functions"),
        (HelperOrFunction, "HelperOrFunction.forward, line"),
        (PropertyTwice, "reaches hidden without calling it"),
        (NoDef, "no `def`"),
    ],
)
def test_a_call_that_cannot_be_rewritten_is_refused_with_its_place(model: type[nn.Module], says: str) -> None:
    teacher = model()
    with pytest.raises(stocnoise.UnsupportedActivationError) as caught:
        stocnoise.convert(teacher, X)
    assert says in str(caught.value)
    assert "exclude" in str(caught.value)
    assert type(teacher) is model


def test_a_refused_call_can_be_excluded() -> None:
    with pytest.raises(stocnoise.NothingConvertedError, match="excluded"):
        stocnoise.convert(Fancy(), X, exclude="relu")
    both = nn.Sequential(Fancy(), nn.ReLU())
    student = stocnoise.convert(both, X, exclude="0.*")
    assert list(layers(student)) == ["1"]
