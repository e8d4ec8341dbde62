"""Products of x and a gate that was computed from x in an earlier statement: x passes through a layer before both."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stocnoise.conversion.changing.edits import Edit
from stocnoise.conversion.finding.source import Position, end_of, factors, place_of
from stocnoise.errors import UnsupportedActivationError


class Replaced(ast.NodeTransformer):
    """Every reading of one expression as that of a name."""

    def __init__(self, spelling: str, name: str) -> None:
        self._spelling, self._name = spelling, name
        self.count = 0

    def visit(self, node: ast.AST) -> Any:
        readable = isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Load)
        if not (readable and ast.unparse(node) == self._spelling):
            return super().visit(node)
        self.count += 1
        return ast.Name(self._name, ast.Load())


def bind_before(function: ast.FunctionDef, edit: Edit, number: int) -> Edit:
    """Bind x, passed through a call that is to be replaced, to a name, where the gate is computed; read it from there.

    Returns:
        the edit of that call.
    """
    assert edit.product is not None
    x = edit.product.x
    block, index = _statement(function, edit.position)
    product = next(node for node in ast.walk(block[index]) if _is_at(node, edit.position))
    bound = Replaced(x, f"_stocnoise_x_{number}")
    needed = {name for side in factors(product) if not _reads(side, x) for name in _names(side)}  # type: ignore[arg-type]
    first = index
    for earlier in range(index - 1, -1, -1):
        statement = block[earlier]
        if not isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)) or statement.value is None:
            continue
        targets = {ast.unparse(target) for target in _targets(statement)}
        if x in targets or not needed:
            break
        if targets & needed:
            needed |= _names(statement.value)
            before = bound.count
            statement.value = bound.visit(statement.value)
            first = earlier if bound.count > before else first
    if first == index:
        raise UnsupportedActivationError(
            f"line {edit.position.line}: `{ast.unparse(product)}` is an activation of {x}, and its gate is computed "
            "too far away: write it in one expression, or exclude it"
        )
    bound.generic_visit(product)
    call = ast.Call(ast.Name("layer", ast.Load()), [ast.parse(x, mode="eval").body], [])
    place = Position(-number, 0)
    call.lineno, call.col_offset, call.end_lineno, call.end_col_offset = place.line, -1, place.line, place.column
    block.insert(first, ast.Assign([ast.Name(f"_stocnoise_x_{number}", ast.Store())], call, lineno=0))
    return replace(edit, position=place, how="replace", product=None)


def _statement(function: ast.FunctionDef, position: Position) -> tuple[list[ast.stmt], int]:
    """The innermost statement at `position`, as the block that it stands in and its number there."""
    found: tuple[list[ast.stmt], int] | None = None
    for node in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                for index, statement in enumerate(block):
                    if any(_is_at(inner, position) for inner in ast.walk(statement)):
                        found = block, index
    assert found is not None
    return found


def _is_at(node: ast.AST, position: Position) -> bool:
    return isinstance(node, (ast.BinOp, ast.Call, ast.AugAssign)) and position in (place_of(node), end_of(node))


def _targets(statement: ast.Assign | ast.AugAssign | ast.AnnAssign) -> Iterator[ast.expr]:
    for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
        yield from target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]


def _reads(node: ast.AST, spelling: str) -> bool:
    return any(
        isinstance(inner, (ast.Name, ast.Attribute, ast.Subscript)) and ast.unparse(inner) == spelling
        for inner in ast.walk(node)
    )


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
