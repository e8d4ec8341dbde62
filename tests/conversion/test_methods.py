"""Where in a class an activation may be called: helpers, loops, super(), closures, decorators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conversion_checks import activation_calls, converted, layers, names
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise

X = torch.randn(2, 4, 6, 6)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


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


class Loop(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.conv(x))
        return x


class While(Base):
    def forward(self, x: Tensor) -> Tensor:
        n = 0
        while (n := n + 1) < 4:
            x = self.act(self.conv(x))
        return self.act(x)


class LoopWithBreak(Base):
    def forward(self, x: Tensor) -> Tensor:
        for n in range(5):
            x = F.relu(self.conv(x))
            if n == 2:
                break
        else:
            x = F.silu(x)
        return x


class Comprehension(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.relu(self.conv(part)) for part in (x, -x, 2 * x)]).sum(0)


class TwoComprehensions(Base):
    def forward(self, x: Tensor) -> Tensor:
        many = [self.act(self.conv(y)) for y in [F.relu(part) for part in (x, -x)]]
        return sum({name: F.gelu(y) for name, y in enumerate(many)}.values())


class Generator(Base):
    def forward(self, x: Tensor) -> Tensor:
        return sum(F.relu(self.conv(part)) for part in (x, -x))


class Nested(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return F.relu(self.conv(y))

        return inner(x)


class NestedTwice(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return F.relu(self.conv(y))

        return inner(inner(x)) + inner(x)


class NestedLoop(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            for _ in range(2):
                y = F.relu(self.conv(y))
            return y

        return inner(inner(x))


class LocalLambda(Base):
    def forward(self, x: Tensor) -> Tensor:
        step = lambda y: F.relu(self.conv(y))  # noqa: E731
        return step(step(x))


class Closure(Base):
    """What the nested function reads is assigned after it is made."""

    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return F.relu(self.conv(y)) * scale

        count, scale = 0, 2.0
        x = inner(x)
        return x * count


class Super(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class SuperSuper(Super):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super(SuperSuper, self).forward(x)) + F.silu(x)  # noqa: UP008


class Inherited(Base):
    """No method of its own."""


class SuperShared(Base):
    """The base and the subclass call one module."""

    class Lower(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.inner = SuperSharedUpper()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class SuperSharedUpper(SuperShared.Lower):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x) - 0.1)


class Mixin:
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x) - 0.1)  # type: ignore[misc]


class MixedIn(Mixin, Base):
    """The activation is in a class that is no module."""


class Explicit(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(Base.forward(self, x))


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


class Checkpointed(Base):
    """Recomputed in the backward pass; the sites must be found again there."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        def part(y: Tensor) -> Tensor:
            for _ in range(2):
                y = F.relu(self.conv(y))
            return y

        return checkpoint(part, self.conv(x), use_reentrant=self.reentrant)


class CheckpointedReentrant(Checkpointed):
    reentrant = True


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


class TryFinally(Base):
    def forward(self, x: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                x = F.relu(x)
        finally:
            x = F.silu(self.conv(x))
        return x


class Annotated(Base):
    """Annotations that cannot be evaluated stay unevaluated."""

    def forward(self, x: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        def inner(y: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
            return F.relu(self.conv(y))

        return inner(inner(x))


def make(scale: float) -> nn.Module:
    class Local(Base):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x) * scale) + __class__.__name__.count("Local")  # type: ignore[name-defined]

    return Local()


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (Helper, 1),
        (HelperTwice, 2),
        (HelperInLoop, 3),
        (HelperOfHelper, 4),
        (Recursive, 3),
        (HelperWithKeywords, 2),
        (PropertyHelper, 1),
        (HelperHeld, 1),
        (HelperHeldTwice, 2),
        (ExplicitTwice, 2),
        (Apart, 3),
        (Loop, 3),
        (While, 4),
        (LoopWithBreak, 3),
        (Comprehension, 3),
        (TwoComprehensions, 6),
        (Generator, 2),
        (Nested, 1),
        (NestedTwice, 3),
        (NestedLoop, 4),
        (LocalLambda, 2),
        (Closure, 1),
        (Super, 2),
        (SuperSuper, 5),
        (Inherited, 1),
        (SuperShared, 2),
        (MixedIn, 2),
        (Explicit, 2),
        (Decorated, 1),
        (DecoratedTwice, 3),
        (NoGrad, 1),
        (CustomForward, 1),
        (Checkpointed, 2),
        (CheckpointedReentrant, 2),
        (CheckpointedMethod, 2),
        (Private, 2),
        (OddSelf, 2),
        (SelfTaken, 2),
        (Positional, 1),
        (TryFinally, 2),
        (Annotated, 2),
        (functools.partial(make, 2.0), 2),
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
    [(StaticHelper, r"the function StaticHelper\._helper"), (HelperHanded, r"write self\._helper")],
)
def test_what_cannot_be_followed_is_refused(model: type[nn.Module], says: str) -> None:
    with pytest.raises(stocnoise.UnsupportedActivationError, match=says):
        stocnoise.convert(model(), X)


def test_classes_made_by_one_function_keep_their_closures() -> None:
    for scale in (2.0, 5.0):
        converted(make(scale), X)
