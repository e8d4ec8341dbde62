"""Methods that an activation may be called in: helpers, properties, decorators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise
from tests.conversion_checks import Base, activation_calls, converted, layers, names

X = torch.randn(2, 4, 6, 6)


class Helper(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self._helper(x)

    def _helper(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class HelperTwice(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return self._helper(self._helper(x))


class HelperInLoop(Helper):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self._helper(x)
        return x


class HelperOfHelper(Helper):
    """Each of two helpers is called twice, so that the inner one has four calls."""

    def forward(self, x: Tensor) -> Tensor:
        return self._outer(x) + self._outer(-x)

    def _outer(self, x: Tensor) -> Tensor:
        return self._helper(self._helper(x))


class Recursive(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return self._recurse(x, 3)

    def _recurse(self, x: Tensor, depth: int) -> Tensor:
        return x if depth == 0 else F.relu(self._recurse(self.conv(x), depth - 1))


class HelperWithKeywords(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self._helper(scale=2.0, x=x) + self._helper(x)

    def _helper(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return F.relu(self.conv(x) * scale)


class StaticHelper(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self._helper(self.conv(x))

    @staticmethod
    def _helper(x: Tensor) -> Tensor:
        return F.relu(x) + 1


class PropertyHelper(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return self.hidden + 1

    @property
    def hidden(self) -> Tensor:
        return F.relu(self.conv(self.x))


class HelperHeld(Helper):
    """The helper is reached through a local name."""

    def forward(self, x: Tensor) -> Tensor:
        step = self._helper
        return step(x)


class HelperHeldTwice(Helper):
    def forward(self, x: Tensor) -> Tensor:
        step = self._helper
        return step(step(x))


class ExplicitTwice(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return Helper._helper(self, ExplicitTwice._helper(self, x))


class Part(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self._helper(x) - 0.1)


class Apart(nn.Module):
    """A child is called as a module, and by one of its methods that its forward calls too."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + self.part._helper(x)


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return function(self, *args, **kwargs)

    return wrapper


class Decorated(Base):
    @counted
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class DecoratedTwice(Base):
    @counted
    @counted
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.act(self.conv(self.act(x))))


class NoGrad(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.frozen(x)

    @torch.no_grad()
    def frozen(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class CustomForward(Base):
    @torch.autocast("cpu", enabled=False)
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class CheckpointedMethod(Helper):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for _ in range(2):
            x = checkpoint(self._helper, x, use_reentrant=False)
        return x


class Private(Base):
    def __init__(self) -> None:
        super().__init__()
        self.__scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.__step(x) + self.__step(-x)

    def __step(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) * self.__scale


class OddSelf(Base):
    def forward(this, x: Tensor) -> Tensor:
        return F.relu(this.conv(x)).add(F.relu(x))


class SelfTaken(Base):
    """`self` is assigned in a loop, and names of ours are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.relu_0 = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, next: Any = None, iter: Any = None) -> Tensor:
        for _ in range(2):
            x = F.relu(self.relu_0(x))
        return x


class Positional(Base):
    def forward(self, x: Tensor, /, *rest: Tensor, scale: float = 1.0, **more: Any) -> Tensor:
        return F.relu(self.conv(x)) * scale


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (Helper, 1),
        (HelperTwice, 2),
        (HelperInLoop, 3),
        (HelperOfHelper, 4),
        (Recursive, 3),
        (HelperWithKeywords, 2),
        (StaticHelper, 1),
        (PropertyHelper, 1),
        (HelperHeld, 1),
        (HelperHeldTwice, 2),
        (ExplicitTwice, 2),
        (Apart, 3),
        (Decorated, 1),
        (DecoratedTwice, 3),
        (NoGrad, 1),
        (CustomForward, 1),
        (CheckpointedMethod, 2),
        (Private, 2),
        (OddSelf, 2),
        (SelfTaken, 2),
        (Positional, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_call_is_found_and_replaced(model: Callable[[], nn.Module], count: int) -> None:
    teacher = model()
    assert activation_calls(teacher, X) == count
    assert len(names(teacher, X)) == count
    student = converted(teacher, X)
    assert len(layers(student)) == count


class HelperHanded(Helper):
    def forward(self, x: Tensor) -> Tensor:
        for step in [self._helper, self._helper]:
            x = functools.partial(step)(x)
        return x


@pytest.mark.parametrize(
    ("model", "says"),
    [(HelperHanded, r"write self\._helper")],
)
def test_what_cannot_be_followed_is_refused(model: type[nn.Module], says: str) -> None:
    with pytest.raises(stocnoise.UnsupportedActivationError, match=says):
        stocnoise.convert(model(), X)
