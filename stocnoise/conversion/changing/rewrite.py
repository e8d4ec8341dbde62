"""A method with some of its calls going elsewhere.

The rewritten source is kept where tracebacks, `inspect.getsource` and the debugger look for it, as long as a function
made of it lives.
"""

from __future__ import annotations
import __future__

import ast
import copy
import linecache
import weakref
import zlib
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, ClassVar

from stocnoise.conversion.changing.binding import Replaced, bind_before
from stocnoise.conversion.changing.edits import Edit, MethodEdit
from stocnoise.conversion.finding.source import ExplicitSuper, definition, end_of, is_map, place_of
from stocnoise.conversion.finding.trace import Helper, Method, function_of, nested_codes
from stocnoise.errors import ConversionError, UnsupportedActivationError


def rewrite(edit: MethodEdit, method: Method) -> Any:
    """What stands under the name of the method in its class, with the edits made, in the same decorators."""
    attribute = vars(method.cls)[method.name]
    original = method.function()
    return _rewrap(attribute, original, _compile(edit, original, method.cls.__name__), method)


def rewrite_helper(edit: MethodEdit, helper: Helper) -> FunctionType:
    """The function as a method: a copy with the edits made, and before its arguments the module that it works for."""
    original = helper.function()
    *_, cls, _ = ["Helper", *original.__qualname__.split(".")]
    return _compile(edit, original, cls if cls.isidentifier() else "Helper", own_self=True)


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


def _held(callee: Any, expected: str) -> Any:
    """What a helper is called on: the object that has the method `callee`, or is called itself; a partial itself."""
    function = function_of(callee)
    if function is None or function.__qualname__ != expected:
        raise ConversionError(
            f"{expected} has been exchanged for {callee!r} since the conversion: exchange it in the model, and convert "
            "that anew"
        )
    return callee.__self__ if isinstance(callee, MethodType) else callee


_OURS: dict[str, Any] = {"_stocnoise_iter": iter, "_stocnoise_next": next, "_stocnoise_held": _held}
_SELF = "_stocnoise_self"


def _with_self(node: Any, edit: MethodEdit) -> Any:
    """A function as a method: with one more argument, and a lambda as a `def`."""
    arguments = node.args.posonlyargs or node.args.args
    ExplicitSuper("").visit(node)
    arguments.insert(0, ast.arg(_SELF))
    if isinstance(node, ast.Lambda):
        made = ast.parse("def helper(): ...").body[0]
        assert isinstance(made, ast.FunctionDef)
        made.args, made.body = node.args, [ast.Return(node.body)]
        return made
    return node


def _compile(edit: MethodEdit, original: FunctionType, cls: str, own_self: bool = False) -> FunctionType:
    node = copy.deepcopy(definition(original.__code__))
    if own_self:
        node = _with_self(node, edit)
    if not isinstance(node, ast.FunctionDef):
        raise UnsupportedActivationError(
            f"{edit.method} is no `def`, so it cannot be rewritten: exclude its activations"
        )
    node.decorator_list = []
    rewriter = _Rewriter(edit, node)
    rewriter.visit(node)
    rewriter.require_all()
    # Under names that nobody shadows.
    cells = {name: CellType(value) for name, value in _OURS.items()}
    cells.update(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
    # Inside a class, for private names and super(), and a function, whose arguments stand for the closure.
    around = ast.parse(f"def closure({', '.join(n for n in cells if n != '__class__')}):\n class {cls}: ...")
    around.body[0].body[0].body = [node]  # type: ignore[attr-defined]
    text = ast.unparse(ast.fix_missing_locations(around))
    file = f"<stocnoise: {edit.method} {zlib.crc32(text.encode()):08x}>"
    # Annotations of functions inside must not be evaluated where they were not.
    future = original.__code__.co_flags & __future__.annotations.compiler_flag
    compiled = compile(text, file, "exec", flags=future, dont_inherit=True)
    code = next(c for c in nested_codes(compiled) if c.co_name == node.name)
    code = code.replace(co_qualname=original.__code__.co_qualname)
    made = _function(code, original, tuple(cells[name] for name in code.co_freevars))
    made.__dict__["_stocnoise_source"] = _Source.of(file, text)
    return made


class _Source:
    """Stands in `linecache` under the name of its file; its functions hold it, and with the last of them it goes."""

    _living: ClassVar[weakref.WeakValueDictionary[str, _Source]] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, file: str, text: str) -> _Source:
        """That of this name, which tells the text."""
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        if (source := cls._living.get(file)) is None:
            source = cls._living[file] = cls()
            weakref.finalize(source, cls._forget, file).atexit = False
        return source

    @classmethod
    def _forget(cls, file: str) -> None:
        if file not in cls._living:  # as where two threads made the same one
            linecache.cache.pop(file, None)


class _Rewriter(ast.NodeTransformer):
    def __init__(self, edit: MethodEdit, node: ast.FunctionDef) -> None:
        self._method = edit.method
        self._edits = {e.position: e for e in edit.edits}
        for number, apart in enumerate((e for e in edit.edits if e.product and not e.product.whole), start=1):
            bound = bind_before(node, self._edits.pop(apart.position), number)
            self._edits[bound.position] = bound
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

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if (let := self._edits.pop(place_of(node), None)) is not None:
            return self._let(node, let)
        edit = self._edits.pop(end_of(node), None)
        self.generic_visit(node)
        if edit is None:
            return node
        if is_map(node):  # what it calls
            x = ast.arguments([], [ast.arg("_stocnoise_x")], None, [], [], None, [])
            call = ast.Call(node.args[0], [ast.Name("_stocnoise_x", ast.Load())], [])
            node.args[0] = ast.Lambda(x, self._edited(call, edit))
            return node
        return self._edited(node, edit)

    def _edited(self, node: ast.Call, edit: Edit) -> ast.expr:
        if edit.how in ("rename", "bind"):
            return self._rename(node, edit)
        if edit.how in ("function", "method", "object", "partial"):
            return self._help(node, edit)
        read, write = self._input(node, edit)
        noisy = ast.Call(self._target(edit), [read], [])
        if edit.how == "replace":
            return noisy
        write(noisy)
        return node

    def _help(self, node: ast.Call, edit: Edit) -> ast.Call:
        """Call a method made of a helper, with what the helper was called on, or was bound to it, as arguments."""
        held = ast.Call(ast.Name("_stocnoise_held", ast.Load()), [node.func, ast.Constant(edit.called)], [])
        if edit.how == "partial":
            node.args.insert(0, ast.Starred(ast.Attribute(held, "args", ast.Load()), ast.Load()))
            later = [keyword.arg and ast.Constant(keyword.arg) for keyword in node.keywords]
            bound = ast.Attribute(copy.deepcopy(held), "keywords", ast.Load())
            values = [bound, *(keyword.value for keyword in node.keywords)]
            node.keywords = [ast.keyword(None, ast.Dict([None, *later], values))]  # type: ignore[list-item]
        elif edit.how != "function":
            node.args.insert(0, held)
        node.func = self._target(edit)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if (let := self._edits.pop(place_of(node), None)) is not None:
            return self._let(node, let)
        self.generic_visit(node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        """`x *= gate(x)` becomes `x = x.mul_(gate(x))`, which is what it does."""
        if (let := self._edits.pop(place_of(node), None)) is None:
            self.generic_visit(node)
            return node
        read = copy.deepcopy(node.target)
        read.ctx = ast.Load()
        name = "mul_" if isinstance(node.op, ast.Mult) else "div_"
        product = ast.copy_location(ast.Call(ast.Attribute(read, name, ast.Load()), [node.value], []), node)
        return ast.Assign([node.target], self._let(product, let), lineno=node.lineno)

    def _let(self, node: ast.expr, edit: Edit) -> ast.expr:
        """(lambda x: product of x)(layer(x)): wherever an expression may stand, and with every x the same."""
        self.generic_visit(node)
        assert edit.product is not None
        read = ast.parse(edit.product.x, mode="eval").body
        body = Replaced(edit.product.x, "_stocnoise_x").visit(node)
        one = ast.arguments([], [ast.arg("_stocnoise_x")], None, [], [], None, [])
        return ast.Call(ast.Lambda(one, body), [ast.Call(self._target(edit), [read], [])], [])

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
