"""What stands at the place in the source where a frame is: the object that is called there, or a product."""

from __future__ import annotations

import ast
import copy
import itertools
from types import FrameType
from typing import Any

from stocnoise.conversion.finding.source import (
    ExplicitSuper,
    Position,
    Product,
    SourceUnavailableError,
    call_at,
    definition,
    end_of,
    factors,
    is_super,
    maps_in,
    names_in,
    product_at,
)

UNKNOWN = object()
"""What is called, where that cannot be told without running it."""


def position_in(frame: FrameType) -> Position:
    _, line, _, column = _range(frame)
    return Position(line or 0, column or 0)


def _range(frame: FrameType) -> tuple[int | None, int | None, int | None, int | None]:
    return next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))


class _Mangler(ast.NodeTransformer):
    """Private names as the class that they stand in spells them."""

    def __init__(self, cls: type) -> None:
        self._prefix = "_" + cls.__name__.lstrip("_")

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            node.attr = self._prefix + node.attr
        self.generic_visit(node)
        return node


_CONSUMERS: tuple[Any, ...] = (map, list, tuple, set, sum)
"""What is running while `map` calls a function."""


def call_in(frame: FrameType, cls: type) -> tuple[Position, Any]:
    """The call in progress in `frame`, of a method of `cls`: where it stands, and the object that it calls.

    What `map` calls is called where the `map` stands.
    """
    position = position_in(frame)
    try:
        call = call_at(frame.f_code, position)
        callee = UNKNOWN if call is None else _told(call.func, frame, cls)
        if call is None or any(callee is consumer for consumer in _CONSUMERS):
            maps = maps_in(call) if call is not None else _maps_on_line(frame)
            if len(maps) == 1 and (mapped := _told(maps[0].args[0], frame, cls)) is not UNKNOWN:
                return end_of(maps[0]), mapped
    except SourceUnavailableError:
        return position, UNKNOWN
    return position, callee


def _maps_on_line(frame: FrameType) -> list[ast.Call]:
    first, last, *_ = _range(frame)
    maps = maps_in(definition(frame.f_code))
    return [call for call in maps if call.lineno <= (last or 0) and (first or 0) <= end_of(call).line]


def _told(node: ast.expr, frame: FrameType, cls: type) -> Any:
    if any(map(_does_something, ast.walk(node))):
        return UNKNOWN  # to tell what f()(x) calls, f would have to run again
    return _evaluate(node, frame, cls)


def _does_something(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return not ((isinstance(node.func, ast.Name) and node.func.id == "type") or is_super(node))
    return isinstance(node, (ast.NamedExpr, ast.Await))


def _evaluate(node: ast.expr, frame: FrameType, cls: type) -> Any:
    expression = ast.Expression(_Mangler(cls).visit(copy.deepcopy(node)))
    expression = ast.fix_missing_locations(_Loader().visit(expression))
    first = frame.f_code.co_varnames[:1]
    ExplicitSuper(first[0] if first else "").visit(expression)
    try:
        return eval(compile(expression, "<callee>", "eval"), frame.f_globals, dict(frame.f_locals))
    except Exception:
        return UNKNOWN


class _Loader(ast.NodeTransformer):
    """What is assigned to, as it is read."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if hasattr(node, "ctx"):
            node.ctx = ast.Load()
        return super().generic_visit(node)


def product_in(frame: FrameType, x: Any) -> Product | None:
    """The product in progress in `frame`, and the expression in it that is `x`; None if that is not to be seen."""
    line, end_line, column, end_column = _range(frame)
    position = Position(end_line or 0, end_column or 0, (line or 0, column or 0))
    try:
        node = product_at(frame.f_code, position)
    except SourceUnavailableError:
        return None
    if node is None or any(isinstance(part, (ast.NamedExpr, ast.Await, ast.Yield)) for part in ast.walk(node)):
        return None
    sides = [
        {ast.unparse(inner) for inner in names_in(side) if _evaluate(inner, frame, type(None)) is x}
        for side in factors(node)
    ]
    for spelling in sorted(set().union(*sides)):
        return Product(position, spelling, all(spelling in side for side in sides))
    return None
