"""Loops that run as often as values say, such as one over the experts that a batch is sent to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from types import CodeType

from stocnoise.conversion.finding.source import Position, SourceUnavailableError, definition, end_of

READERS = {
    *("item", "tolist", "__bool__", "__int__", "__index__", "__float__", "nonzero", "argwhere", "unique"),
    *("masked_select", "unique_consecutive"),
}
"""Functions of torch that make values decide what runs."""

_Loop = ast.For | ast.While | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def varies(code: CodeType, position: Position, lines: Set[int]) -> bool:
    """Whether the call at `position` is in a loop that runs as often as values say, which were read at `lines`."""
    try:
        function = definition(code)
    except SourceUnavailableError:
        return False
    names = _decided_names(function, lines)
    return any(
        any(isinstance(call, ast.expr) and end_of(call) == position for call in ast.walk(loop))
        and any(_decided(test, lines, names) for test in _tests(loop))
        for loop in ast.walk(function)
        if isinstance(loop, _Loop)
    )


def _tests(loop: _Loop) -> Iterator[ast.expr]:
    """What decides how often a loop runs, and what of it."""
    if isinstance(loop, ast.For):
        yield loop.iter
    elif not isinstance(loop, ast.While):
        for generator in loop.generators:
            yield generator.iter
    for node in ast.walk(loop):
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs


def _decided_names(function: ast.AST, lines: Set[int]) -> set[str]:
    """Names whose value follows from values that were read."""
    assignments = [node for node in ast.walk(function) if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign))]
    names: set[str] = set()
    while True:
        found = {
            inner.id
            for node in assignments
            if node.value is not None and _decided(node.value, lines, names)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            for inner in ast.walk(target)
            if isinstance(inner, ast.Name)
        }
        if found <= names:
            return names
        names |= found


def _decided(node: ast.expr, lines: Set[int], names: Set[str]) -> bool:
    if any(node.lineno <= line <= (node.end_lineno or node.lineno) for line in lines):
        return True
    return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))
