"""A method with some of its calls going elsewhere.

The rewritten source is kept where tracebacks, `inspect.getsource` and the debugger look for it.
"""

from __future__ import annotations
import __future__

import ast
import copy
import linecache
import zlib
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any

from stocnoise.conversion.changing.edits import Edit, MethodEdit
from stocnoise.conversion.finding.source import definition, end_of
from stocnoise.conversion.finding.trace import Method, nested_codes
from stocnoise.errors import UnsupportedActivationError


def rewrite(edit: MethodEdit) -> Any:
    """What stands under the name of the method in its class, with the edits made, in the same decorators."""
    attribute = vars(edit.method.cls)[edit.method.name]
    original = edit.method.function()
    return _rewrap(attribute, original, _compile(edit, original), edit.method)


def _rewrap(attribute: Any, old: FunctionType, new: FunctionType, method: Method) -> Any:
    """`attribute` with `old`, somewhere inside its decorators, exchanged for `new`; no decorator runs again."""
    if attribute is old:
        return new
    if isinstance(attribute, property):
        return property(_rewrap(attribute.fget, old, new, method), attribute.fset, attribute.fdel, attribute.__doc__)
    if isinstance(attribute, FunctionType) and hasattr(attribute, "__wrapped__"):
        inner = attribute.__wrapped__
        replaced = _rewrap(inner, old, new, method)
        cells = [CellType(replaced) if _holds(cell, inner) else cell for cell in attribute.__closure__ or ()]
        wrapper = _function(attribute.__code__, attribute, tuple(cells))
        wrapper.__wrapped__ = replaced  # type: ignore[attr-defined]
        return wrapper
    raise UnsupportedActivationError(
        f"{method} is wrapped in a {type(attribute).__name__}, which cannot be rewritten: exclude its activations"
    )


def _is_of_super(node: ast.expr) -> bool:
    """Whether this is `super().name`."""
    call = getattr(node, "value", None)
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "super"


def _holds(cell: CellType, value: Any) -> bool:
    try:
        return cell.cell_contents is value
    except ValueError:  # empty
        return False


def _function(code: CodeType, like: FunctionType, closure: tuple[CellType, ...]) -> FunctionType:
    made = FunctionType(code, like.__globals__, like.__name__, like.__defaults__, closure)
    made.__kwdefaults__ = like.__kwdefaults__
    made.__qualname__, made.__module__, made.__doc__ = like.__qualname__, like.__module__, like.__doc__
    made.__annotations__ = like.__annotations__
    made.__dict__.update(like.__dict__)
    return made


def _compile(edit: MethodEdit, original: FunctionType) -> FunctionType:
    node = copy.deepcopy(definition(original.__code__))
    if not isinstance(node, ast.FunctionDef):
        raise UnsupportedActivationError(
            f"{edit.method} is no `def`, so it cannot be rewritten: exclude its activations"
        )
    node.decorator_list = []
    rewriter = _Rewriter(edit, node)
    rewriter.visit(node)
    rewriter.require_all()
    cells = {"_stocnoise_iter": CellType(iter), "_stocnoise_next": CellType(next)}  # under names that nobody shadows
    cells.update(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
    # Inside a class, for private names and super(), and a function, whose arguments stand for the closure.
    around = ast.parse(
        f"def closure({', '.join(n for n in cells if n != '__class__')}):\n class {edit.method.cls.__name__}: ..."
    )
    around.body[0].body[0].body = [node]  # type: ignore[attr-defined]
    text = ast.unparse(ast.fix_missing_locations(around))
    file = f"<stocnoise: {edit.method} {zlib.crc32(text.encode()):08x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    # Annotations of functions inside must not be evaluated where they were not.
    future = original.__code__.co_flags & __future__.annotations.compiler_flag
    compiled = compile(text, file, "exec", flags=future, dont_inherit=True)
    code = next(c for c in nested_codes(compiled) if c.co_name == node.name)
    code = code.replace(co_qualname=original.__code__.co_qualname)
    return _function(code, original, tuple(cells[name] for name in code.co_freevars))


class _Rewriter(ast.NodeTransformer):
    def __init__(self, edit: MethodEdit, node: ast.FunctionDef) -> None:
        self._method = edit.method
        self._edits = {e.position: e for e in edit.edits}
        arguments = [*node.args.posonlyargs, *node.args.args]
        self._self = arguments[0].arg
        self._scopes: list[list[ast.stmt]] = []  # statements for the top of each function around this place

    def require_all(self) -> None:
        for position, edit in self._edits.items():
            reached = edit.called or "an activation"
            raise UnsupportedActivationError(
                f"{self._method}, line {position.line}, reaches {reached} without calling it: write a call, or exclude "
                "its activations"
            )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._scopes.append([])
        self.generic_visit(node)
        top = 1 if ast.get_docstring(node, clean=False) is not None else 0
        node.body[top:top] = self._scopes.pop()
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        edit = self._edits.pop(end_of(node), None)
        self.generic_visit(node)
        if edit is None:
            return node
        if edit.how in ("rename", "bind"):
            return self._rename(node, edit)
        read, write = self._input(node, edit)
        noisy = ast.Call(self._target(edit), [read], [])
        if edit.how == "replace":
            return noisy
        write(noisy)
        return node

    def _rename(self, node: ast.Call, edit: Edit) -> ast.Call:
        """Call another method; the method itself may also be an argument, as in `checkpoint(self.part, x)`."""
        if edit.how == "bind":
            if not node.args or isinstance(node.args[0], ast.Starred):
                self._refuse(node)
            del node.args[0]
        if edit.seen or _is_of_super(node.func):
            node.func = self._target(edit, node.func if _is_of_super(node.func) else None)
            return node
        for place, argument in enumerate(node.args):
            if self._is_of_self(argument, edit.called):
                node.args[place] = self._target(edit)
                return node
        for keyword in node.keywords:
            if self._is_of_self(keyword.value, edit.called):
                keyword.value = self._target(edit)
                return node
        raise UnsupportedActivationError(
            f"the call `{ast.unparse(node)}` in {self._method} reaches {edit.called}, which applies activations, "
            f"several times, and not by that name: write {self._self}.{edit.called}, or exclude its activations"
        )

    def _is_of_self(self, node: ast.expr, name: str) -> bool:
        value = getattr(node, "value", None)
        return getattr(node, "attr", "") == name and isinstance(value, ast.Name) and value.id == self._self

    def _input(self, node: ast.Call, edit: Edit) -> tuple[ast.expr, Callable[[ast.expr], None]]:
        """The expression of the activation's input, and how to put another in its place."""
        if edit.method and isinstance(node.func, ast.Attribute):
            func = node.func
            return func.value, lambda value: setattr(func, "value", value)
        if node.args and not isinstance(node.args[0], ast.Starred):
            return node.args[0], lambda value: node.args.__setitem__(0, value)
        for keyword in node.keywords:
            if keyword.arg in ("input", "x"):
                return keyword.value, lambda value, keyword=keyword: setattr(keyword, "value", value)
        return self._refuse(node)

    def _target(self, edit: Edit, inherited: ast.expr | None = None) -> ast.expr:
        """What is called instead; `inherited` is the method that was called so far, if self does not give it."""
        attributes: list[ast.expr] = [
            inherited
            if inherited is not None and target == edit.called
            else ast.Attribute(ast.Name(self._self, ast.Load()), target, ast.Load())
            for target in edit.targets
        ]
        if len(attributes) == 1:
            return attributes[0]
        # An iterator local to the call of the function: it needs no reset, and survives exceptions and threads.
        scope = self._scopes[0 if edit.hoist else -1]
        name = f"_stocnoise_{edit.position.line}_{edit.position.column}"
        iterator = ast.Call(ast.Name("_stocnoise_iter", ast.Load()), [ast.Tuple(attributes, ast.Load())], [])
        scope.append(ast.Assign([ast.Name(name, ast.Store())], iterator))
        exhausted = ast.Attribute(ast.Name(self._self, ast.Load()), "_stocnoise_exhausted", ast.Load())
        return ast.Call(ast.Name("_stocnoise_next", ast.Load()), [ast.Name(name, ast.Load()), exhausted], [])

    def _refuse(self, node: ast.Call) -> Any:
        raise UnsupportedActivationError(
            f"the call `{ast.unparse(node)}` in {self._method} cannot be rewritten: "
            "call the activation with its input as the first argument, or exclude it"
        )
