"""Activations called in functions that are no methods of the module: rewritten for this module alone."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import activation_calls, converted, layers

X = torch.randn(4, 8)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()


class Static(Base):
    @staticmethod
    def scaled(x: Tensor) -> Tensor:
        y = F.relu(x)
        return y * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.scaled(self.a(x))))


class OfClass(Base):
    scale = 3.0

    @classmethod
    def scaled(cls, x: Tensor) -> Tensor:
        y = F.gelu(x)
        return y * cls.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.a(x)) + type(self).scaled(self.b(x))


class Processor:
    """As diffusers' attention processors: an object that is called with the module."""

    def __init__(self) -> None:
        self.__scale = 0.5

    def __call__(self, module: Base, x: Tensor) -> Tensor:
        x = module.act(module.a(x)) * module.act(module.b(x))
        return self._rest(x) * self.__scale

    def _rest(self, x: Tensor) -> Tensor:
        y = F.silu(x)
        return y + 1


class Processed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.processor, self.last = Processor(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.processor(self, x))


def kernel(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    return f(x) + 1e-3


class Kernel(Base):
    """A module handed to a free function."""

    def forward(self, x: Tensor) -> Tensor:
        return kernel(self.a(x), self.act) * kernel(self.b(x), self.act)


def dense(x: Tensor, weight: Tensor, *, shift: float = 0.0) -> Tensor:
    h = F.linear(x, weight)
    for _ in range(2):
        h = F.gelu(h) + shift
    return h


class Free(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(dense(x, self.a.weight, shift=0.1) + dense(x, self.b.weight))


def outer(x: Tensor) -> Tensor:
    y = inner(x)
    return y + inner(x)


def inner(x: Tensor) -> Tensor:
    parts = [F.relu(part) for part in x.chunk(2, -1)]
    return torch.cat(parts, -1)


class Nested(Base):
    def forward(self, x: Tensor) -> Tensor:
        return outer(self.a(x))


class Lambda(Base):
    def __init__(self) -> None:
        super().__init__()
        self.f = lambda x: F.relu(x) * 2 + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.a(x))


class Louder(Processor):
    def __call__(self, module: Base, x: Tensor) -> Tensor:
        y = super().__call__(module, x)
        return F.gelu(y)


class OfBaseClass(Processed):
    """A processor that calls the method of its base class."""

    def __init__(self) -> None:
        super().__init__()
        self.processor = Louder()


class Partial(Base):
    """A function with some of its arguments bound."""

    def __init__(self) -> None:
        super().__init__()
        self.of_a = functools.partial(dense, weight=self.a.weight, shift=0.5)

    def forward(self, x: Tensor) -> Tensor:
        first = functools.partial(dense, x)
        return self.of_a(x, shift=0.1) + first(self.b.weight)


def doubled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapper(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return 2 * function(*args, **kwargs)

    return wrapper


@doubled
def decorated(x: Tensor) -> Tensor:
    y = F.relu(x)
    return y + 1


@torch.no_grad()
def detached(x: Tensor) -> Tensor:
    y = F.silu(x)
    return y + 1


class Decorated(Base):
    def forward(self, x: Tensor) -> Tensor:
        return decorated(self.a(x)) + detached(self.b(x))


class Mapped(Base):
    """Functions, a method and a module that are handed to `map`."""

    def double(self, x: Tensor) -> Tensor:
        return 2 * F.silu(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k = map(self.act, (self.a(x), self.b(x)))
        scaled = functools.partial(dense, weight=self.b.weight)
        q, k = map(scaled, (q, k))
        for part in map(F.relu, [q, k]):
            x = x + part
        return sum(map(self.double, x.chunk(1)), x) + torch.cat(list(map(torch.relu, x.split(4, 1))), 1)


MODELS = [
    *((Static, 2), (OfClass, 2), (Processed, 4), (Kernel, 2), (Free, 5), (Nested, 4), (Lambda, 1)),
    *((OfBaseClass, 5), (Partial, 4), (Decorated, 2), (Mapped, 11)),
]


@pytest.mark.parametrize(("model", "count"), MODELS)
def test_a_call_in_a_helper_is_converted(model: type[Base], count: int) -> None:
    teacher = model()
    assert activation_calls(teacher, X) == count
    student = converted(teacher, X)
    assert len(layers(student)) == count
    back = stocnoise.revert(student)
    assert type(back) is model and torch.equal(back(X), teacher(X))


@pytest.mark.parametrize("model", [Static, Processed, Free, Nested, OfBaseClass, Partial, Decorated])
def test_nothing_but_the_student_changes(model: type[Base]) -> None:
    """Another module that uses the same functions computes without noise."""
    other = model()
    expected = other(X)
    student = stocnoise.convert(model(), X, gamma=1.0)
    stocnoise.calibrate(student, [X])
    student(X)
    assert torch.equal(other(X), expected)


@pytest.mark.parametrize("model", [Static, Processed, Free, Nested, OfBaseClass, Partial, Decorated])
def test_copies_and_pickles(model: type[Base]) -> None:
    student = stocnoise.convert(model(), X, gamma=0.5)
    stocnoise.calibrate(student, [X])
    torch.manual_seed(1)
    expected = student(X)
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        torch.manual_seed(1)
        other.load_state_dict(student.state_dict())
        assert other(X).shape == expected.shape and len(layers(other)) == len(layers(student))


def test_a_helper_that_is_exchanged_later_is_told() -> None:
    class Other(Processor):
        def __call__(self, module: Base, x: Tensor) -> Tensor:
            return module.act(x)

    student = stocnoise.convert(Processed(), X)
    student.processor = Other()
    with pytest.raises(stocnoise.ConversionError, match="exchanged"):
        student(X)
