"""What holds a module besides its parent: containers and other objects in attributes, and methods bound to it."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn


class Exchange:
    """Puts other modules, and the methods of other classes, where attributes of modules hold them.

    Args:
        modules: what comes in the place of a module.
        classes: which class the modules had whose class has changed.
    """

    def __init__(self, modules: Mapping[nn.Module, nn.Module], classes: Mapping[nn.Module, type]) -> None:
        self._modules = modules
        self._classes = classes
        self._seen: set[int] = set()
        self._within = 0  # objects whose attributes are being looked at

    def everywhere(self, model: nn.Module) -> None:
        for module in list(model.modules()):
            for name, value in _attributes(module):
                new = self._new(value)
                if new is not value:
                    vars(module)[name] = new

    def _new(self, value: Any) -> Any:
        """What stands for `value` now; what can be changed is changed where it is."""
        if isinstance(value, nn.Module):
            return self._modules.get(value, value)
        if isinstance(value, MethodType):
            return self._bound(value)
        if isinstance(value, functools.partial):
            held = (value.func, *value.args, *value.keywords.values())
            func, *rest = new = self._new(held)
            keywords = dict(zip(value.keywords, rest[len(value.args) :], strict=True))
            return value if new is held else functools.partial(func, *rest[: len(value.args)], **keywords)
        if type(value) is tuple:
            new = tuple(map(self._new, value))
            return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
        if isinstance(value, (set, frozenset)):
            return self._of_set(value)
        if id(value) in self._seen:
            return value
        if isinstance(value, (list, deque, dict)):
            self._change(value, value)
        elif not self._within and _is_object(value):  # not objects in objects: that has no end
            self._within += 1
            self._change(value, vars(value))
            self._within -= 1
        return value

    def _change(self, value: Any, held: list[Any] | deque[Any] | dict[Any, Any]) -> None:
        self._seen.add(id(value))
        for key, item in list(held.items() if isinstance(held, dict) else enumerate(held)):
            new = self._new(item)
            if new is not item:
                held[key] = new

    def _of_set(self, value: set[Any] | frozenset[Any]) -> set[Any] | frozenset[Any]:
        new = {item: self._new(item) for item in value}
        if all(item is its for item, its in new.items()):
            return value
        if isinstance(value, frozenset):
            return frozenset(new.values())
        value.clear()
        value.update(new.values())
        return value

    def _bound(self, method: MethodType) -> Any:
        module = method.__self__
        name = method.__func__.__name__
        if not isinstance(module, nn.Module):
            return method
        if module in self._modules and getattr(type(module), name, None) is method.__func__:
            return getattr(self._modules[module], name, method)
        if module in self._classes and getattr(self._classes[module], name, None) is method.__func__:
            return MethodType(getattr(type(module), name), module)
        return method


Container = list[Any] | deque[Any] | set[Any] | dict[Any, Any]


def containers(model: nn.Module) -> Iterator[Container]:
    """All in which an exchange may put something else: lists, sets, dicts, the attributes of objects."""
    seen: set[int] = set()

    def inside(value: Any, within: bool = False) -> Iterator[Container]:
        if isinstance(value, nn.Module) or id(value) in seen:
            return
        if isinstance(value, functools.partial):
            yield from inside((*value.args, *value.keywords.values()), within)
        elif type(value) is tuple or isinstance(value, frozenset):
            for item in value:
                yield from inside(item, within)
        elif isinstance(value, (list, deque, set, dict)):
            seen.add(id(value))
            yield value
            for item in list(value.values() if isinstance(value, dict) else value):
                yield from inside(item, within)
        elif not within and _is_object(value):
            seen.add(id(value))
            yield vars(value)
            for item in list(vars(value).values()):
                yield from inside(item, within=True)

    for module in model.modules():
        for _, value in _attributes(module):
            yield from inside(value)


_OTHERS = (type, FunctionType, BuiltinFunctionType, ModuleType)


def _is_object(value: Any) -> bool:
    """An object of somebody's class, such as a container that is no list."""
    ours = type(value).__module__.partition(".")[0] not in ("builtins", "torch")
    return ours and hasattr(value, "__dict__") and not isinstance(value, _OTHERS)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        ours = name.startswith("_stocnoise") or name == "replaced"
        if not (ours or name in ("_parameters", "_buffers", "_modules") or name.endswith("_hooks")):
            yield name, value
