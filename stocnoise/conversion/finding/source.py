"""Looking at the source of running code: the call that a frame is in, the definition of a function."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType


class SourceUnavailableError(Exception):
    """The source of a function cannot be read, or is not the one that runs."""


@dataclass(frozen=True)
class Position:
    """The end of a call expression, as in `ast` (line from 1, column in bytes): no two calls end at one place."""

    line: int
    column: int
    start: tuple[int, int] = (0, 0)
    """Of a product, which may end where a call in it ends; (0, 0) for calls."""


def end_of(node: ast.expr | ast.stmt) -> Position:
    return Position(node.end_lineno or 0, node.end_col_offset or 0)


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@functools.lru_cache(maxsize=64)
def _definitions(text: str) -> dict[tuple[int, str], _Definition]:
    """Every `def` and `lambda` of a file by its first line (that of a decorator, as in code objects) and name."""
    found: dict[tuple[int, str], _Definition] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Lambda):
            found.setdefault((node.lineno, "<lambda>"), node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.name] = node
    return found


def definition(code: CodeType) -> _Definition:
    """The `def` or `lambda` that `code` was compiled from; not to be changed."""
    text = "".join(linecache.getlines(code.co_filename))
    if not text:
        raise SourceUnavailableError(f"the source of {code.co_qualname} ({code.co_filename}) cannot be read")
    try:
        return _definitions(text)[code.co_firstlineno, code.co_name]
    except (KeyError, SyntaxError):
        raise SourceUnavailableError(
            f"the source of {code.co_qualname} in {code.co_filename} is not the one that runs"
        ) from None


def call_at(code: CodeType, position: Position) -> ast.Call | None:
    """The call expression of `code` that ends at `position`."""
    return next((c for c in calls_in(definition(code)) if end_of(c) == position), None)


@dataclass(frozen=True)
class Product:
    """Where x · gate(x) stands, and how its x is written there."""

    position: Position
    x: str
    whole: bool
    """Whether the gate is computed within the product, from x as it is written."""


def product_at(code: CodeType, position: Position) -> ast.expr | ast.AugAssign | None:
    """The product (or quotient) at `position`, as an expression or a statement."""
    for node in ast.walk(definition(code)):
        if isinstance(node, (ast.BinOp, ast.AugAssign, ast.Call)) and position in (place_of(node), end_of(node)):
            return node
    return None


def place_of(node: ast.expr | ast.stmt) -> Position:
    """The whole range of `node`."""
    return Position(node.end_lineno or 0, node.end_col_offset or 0, (node.lineno, node.col_offset))


def factors(node: ast.expr | ast.AugAssign) -> list[ast.expr]:
    """What a product multiplies."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.AugAssign):
        return [node.target, node.value]
    assert isinstance(node, ast.Call)
    if len(node.args) == 1 and isinstance(node.func, ast.Attribute):
        return [node.func.value, node.args[0]]
    return node.args


def names_in(node: ast.AST) -> Iterator[ast.expr]:
    """Names, attributes and items, which can be read again without doing anything."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Name, ast.Attribute, ast.Subscript)) and not any(
            isinstance(part, (ast.Call, ast.NamedExpr, ast.Await)) for part in ast.walk(inner)
        ):
            yield inner


def calls_in(node: ast.AST) -> Iterator[ast.Call]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))


def is_map(node: ast.AST) -> bool:
    """Whether this is `map(function, values)`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "map"):
        return False
    return len(node.args) == 2 and not any(isinstance(value, ast.Starred) for value in node.args)


def maps_in(node: ast.AST) -> list[ast.Call]:
    return [call for call in calls_in(node) if is_map(call)]


def is_super(node: ast.AST) -> bool:
    """Whether this is `super()`."""
    if not isinstance(node, ast.Call) or node.args:
        return False
    return isinstance(node.func, ast.Name) and node.func.id == "super"


class ExplicitSuper(ast.NodeTransformer):
    """`super()` as it may stand anywhere, given the name of the first argument of the function around it."""

    def __init__(self, first: str) -> None:
        self._first = first

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        arguments = [*node.args.posonlyargs, *node.args.args]
        ExplicitSuper(arguments[0].arg if arguments else self._first).generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if is_super(node) and self._first:
            node.args = [ast.Name("__class__", ast.Load()), ast.Name(self._first, ast.Load())]
            ast.fix_missing_locations(node)
        return node


def is_thin(code: CodeType, position: Position) -> bool:
    """Whether the function does nothing but return the call at `position` on its first argument."""
    node = definition(code)
    if isinstance(node, ast.Lambda):
        value: ast.expr | None = node.body
    else:
        body = [statement for statement in node.body if not _is_docstring(statement)]
        value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
    if not (isinstance(value, ast.Call) and end_of(value) == position and node.args.args):
        return False
    first = value.args[0] if value.args else getattr(value.func, "value", None)
    return isinstance(first, ast.Name) and first.id == node.args.args[0].arg


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
