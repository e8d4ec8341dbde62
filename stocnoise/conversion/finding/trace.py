"""Where in the source a call stands: from the Python stack to methods of modules and places in their code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, Literal

from torch import nn

from stocnoise.conversion.finding.callee import UNKNOWN, call_in, position_in
from stocnoise.conversion.finding.source import Position, SourceUnavailableError, is_thin

# Modules whose functions stand between a model's code and the activation, and are not places of their own.
_GLUE = {"torch.nn.modules.module", "torch.nn.functional", "torch.overrides", "torch._jit_internal", "torch._ops"}

_INLINE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>")


@dataclass(frozen=True)
class Method:
    """The function that `cls` defines under `name`."""

    cls: type[nn.Module]
    name: str

    def function(self) -> FunctionType:
        found = innermost(vars(self.cls)[self.name])
        assert found is not None
        return found

    def __str__(self) -> str:
        return f"{self.cls.__qualname__}.{self.name}"


@dataclass(frozen=True)
class Helper:
    """A function that is no method of the module on whose behalf it runs: free, static, or of another object."""

    code_of: FunctionType

    @property
    def name(self) -> str:
        return self.code_of.__name__.strip("<>_")

    def function(self) -> FunctionType:
        return self.code_of

    def __str__(self) -> str:
        return self.code_of.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        """A function inside decorators cannot be found by its name, what it is wrapped in can."""
        found: Any = sys.modules.get(self.code_of.__module__)
        for name in self.code_of.__qualname__.split("."):
            found = getattr(found, name, None)
        layers = [found]
        while layers[-1] is not self.code_of and hasattr(layers[-1], "__wrapped__"):
            layers.append(layers[-1].__wrapped__)
        if layers[-1] is not self.code_of:
            return Helper, (self.code_of,)
        return _helper_inside, (found, len(layers) - 1)


def _helper_inside(decorated: Any, decorators: int) -> Helper:
    for _ in range(decorators):
        decorated = decorated.__wrapped__
    return Helper(decorated)


Reach = Literal["bound", "unbound", "unseen", "function", "method", "object", "partial"]


@dataclass(frozen=True)
class Link:
    """One method of the owner on the stack, and the place in it from where the next one, or the activation, is called.

    `frame` tells invocations apart. `scope` is the frame of the innermost `def` around the place: that of the method,
    or of a function inside it. `reach` tells how the next method is called there: as a bound method, as a function of
    its class, or in a way that is not to be seen from the call. After the methods come helpers, which are called as
    functions, as methods of other objects, by calling such an object, or with some of their arguments bound before.
    """

    method: Method | Helper
    frame: int
    position: Position
    scope: int
    reach: Reach


@dataclass(frozen=True)
class Trace:
    """The way from the entry into `owner` to the call: methods of the owner, outermost first."""

    owner: nn.Module
    links: tuple[Link, ...]
    callee: Any
    """What the expression at the last position calls: `UNKNOWN` where that cannot be told without running it."""
    helper: str | None = None
    """The name of a function that stands between the last link and the activation, and is no link itself."""
    thin: bool = False
    """Whether that function does nothing but apply the activation to its first argument."""


def innermost(attribute: Any) -> FunctionType | None:
    """The function that was written as a method, inside static methods, properties and decorators that wrap it."""
    while True:
        if isinstance(attribute, (staticmethod, classmethod, MethodType)):
            attribute = attribute.__func__
        elif isinstance(attribute, property):
            attribute = attribute.fget
        elif hasattr(attribute, "__wrapped__"):
            attribute = attribute.__wrapped__
        else:
            return attribute if isinstance(attribute, FunctionType) else None


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """`code` and every function, lambda and comprehension inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested_codes(constant)


class Tracer:
    """Reads the stack; keeps the frames it has named, so that no two share a number."""

    def __init__(self, modules: Set[nn.Module]) -> None:
        self._modules = modules  # of the model; a module made while it runs is none of its parts
        self._numbers: dict[FrameType, int] = {}
        self._methods: dict[tuple[type, CodeType], Method | None] = {}

    def trace(self, frame: FrameType) -> Trace | None:
        """How the function that runs in `frame` came to be called; None if no module's method is on the way."""
        inner: list[FrameType] = []  # frames since the last method, innermost first
        links: list[Link] = []
        owner: nn.Module | None = None
        callee: Any = UNKNOWN
        below: CodeType | None = None  # of the method that was found last
        helpers: list[FrameType] = []
        for outer in _outward(frame):
            found = self._method(outer)
            if found is None:
                if owner is not None and _is_entry(outer, owner):
                    break
                if not _is_glue(outer):
                    inner.append(outer)
                continue
            module, method = found
            if owner is not None and module is not owner:
                break
            family = set(nested_codes(outer.f_code))
            nested = [f for f in inner if f.f_code in family]
            place = nested[0] if nested else outer
            position, called = call_in(place, method.cls)
            if owner is None:
                owner = module
                callee = called
                helpers = inner[: inner.index(place)] if nested else inner
            defs = [f for f in nested if f.f_code.co_name not in _INLINE]
            scope = defs[0] if defs else outer
            reach = _reach(called, below)
            links.append(Link(method, self._number(outer), position, self._number(scope), reach))
            below = outer.f_code
            inner = []
        if owner is None:
            return None
        links.reverse()
        if not helpers:
            return Trace(owner, tuple(links), callee)
        outermost = helpers[-1].f_code.co_qualname
        if all(_is_thin(helper) for helper in helpers):
            return Trace(owner, tuple(links), callee, outermost, thin=True)
        followed = self._follow(links[-1], callee, helpers)
        if followed is None:
            return Trace(owner, tuple(links), callee, outermost)
        return Trace(owner, (*links[:-1], *followed[0]), followed[1])

    def _follow(self, last: Link, callee: Any, helpers: list[FrameType]) -> tuple[list[Link], Any] | None:
        """`last` and the links through `helpers` (innermost first), and what is called at the end."""
        links = [last]
        outward = list(reversed(helpers))
        while outward:
            frame = outward.pop(0)
            reach = _reach_of_helper(callee, frame)
            if reach is None:
                return None
            function = function_of(callee)
            assert function is not None
            family = set(nested_codes(frame.f_code))
            place = scope = frame
            while outward and outward[0].f_code in family:
                place = outward.pop(0)
                scope = scope if place.f_code.co_name in _INLINE else place
            links[-1] = replace(links[-1], reach=reach)
            position, callee = call_in(place, type(None))
            numbers = self._number(frame), self._number(scope)
            links.append(Link(Helper(function), numbers[0], position, numbers[1], "unseen"))
        return links, callee

    @staticmethod
    def innermost(frame: FrameType) -> FrameType:
        """The frame that is no glue."""
        return next(outer for outer in _outward(frame) if not _is_glue(outer))

    def line(self, frame: FrameType) -> tuple[int, int]:
        """The number of the innermost frame that is neither glue nor torch's, and the line in it."""
        names = ((outer, outer.f_globals.get("__name__", "")) for outer in _outward(frame))
        place = next(outer for outer, name in names if not (_is_glue(outer) or name.split(".")[0] == "torch"))
        return self._number(place), place.f_lineno

    def _number(self, frame: FrameType) -> int:
        return self._numbers.setdefault(frame, len(self._numbers))

    def _method(self, frame: FrameType) -> tuple[nn.Module, Method] | None:
        module = _first_argument(frame)
        if not isinstance(module, nn.Module) or module not in self._modules:
            return None
        if frame.f_globals.get("__name__") == "torch.nn.modules.module":
            return None
        key = (type(module), frame.f_code)
        if key not in self._methods:
            self._methods[key] = _find_method(*key)
        method = self._methods[key]
        return None if method is None else (module, method)


def _find_method(cls: type, code: CodeType) -> Method | None:
    for base in cls.__mro__:
        for name, attribute in vars(base).items():
            function = innermost(attribute)
            if function is not None and function.__code__ is code:
                return Method(base, name)
    return None


def _is_glue(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name in _GLUE or name.startswith("stocnoise.conversion.")


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _is_entry(frame: FrameType, owner: nn.Module) -> bool:
    """Whether `frame` is the call of `owner` as a module."""
    return frame.f_code.co_name == "_call_impl" and _first_argument(frame) is owner


def _reach(callee: Any, code: CodeType | None) -> Reach:
    function = innermost(callee) if isinstance(callee, (FunctionType, MethodType)) else None
    if function is None or function.__code__ is not code:
        return "unseen"
    return "bound" if isinstance(callee, MethodType) else "unbound"


def function_of(callee: Any) -> FunctionType | None:
    """The function that runs when `callee` is called, with nothing around it."""
    if isinstance(callee, MethodType):
        callee = callee.__func__
    elif isinstance(callee, functools.partial):
        callee = callee.func
    elif isinstance(callee, nn.Module):
        callee = type(callee).forward
    elif not isinstance(callee, (FunctionType, type)):
        callee = type(callee).__call__ if callable(callee) else None
    return callee if isinstance(callee, FunctionType) else None


def _reach_of_helper(callee: Any, frame: FrameType) -> Reach | None:
    """How the function that runs in `frame` is called, if it can be told, and is no part of torch."""
    function = function_of(callee)
    if function is None or function.__code__ is not frame.f_code or function.__module__.split(".")[0] == "torch":
        return None
    if isinstance(callee, functools.partial):
        return "partial"
    if isinstance(callee, FunctionType):
        return "function"
    return "method" if isinstance(callee, MethodType) else "object"


def _is_thin(frame: FrameType) -> bool:
    try:
        return is_thin(frame.f_code, position_in(frame))
    except SourceUnavailableError:
        return False
