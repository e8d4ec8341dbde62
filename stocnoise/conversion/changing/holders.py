"""What holds a module besides its parent: lists, tuples and dicts in attributes, and methods bound to it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import MethodType
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

    def everywhere(self, model: nn.Module) -> None:
        for module in list(model.modules()):
            for name, value in _attributes(module):
                new = self._new(value)
                if new is not value:
                    vars(module)[name] = new

    def _new(self, value: Any) -> Any:
        """What stands for `value` now; lists and dicts are changed where they are."""
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
        if isinstance(value, (list, dict)) and id(value) not in self._seen:
            self._seen.add(id(value))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                new = self._new(item)
                if new is not item:
                    value[key] = new
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


def containers(model: nn.Module) -> Iterator[list[Any] | dict[Any, Any]]:
    """The lists and dicts in which an exchange may put something else."""
    seen: set[int] = set()

    def inside(value: Any) -> Iterator[list[Any] | dict[Any, Any]]:
        if isinstance(value, functools.partial):
            yield from inside((*value.args, *value.keywords.values()))
        elif type(value) is tuple:
            for item in value:
                yield from inside(item)
        elif isinstance(value, (list, dict)) and id(value) not in seen:
            seen.add(id(value))
            yield value
            for item in list(value.values() if isinstance(value, dict) else value):
                yield from inside(item)

    for module in model.modules():
        for _, value in _attributes(module):
            yield from inside(value)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        ours = name.startswith("_stocnoise") or name == "replaced"
        if not (ours or name in ("_parameters", "_buffers", "_modules") or name.endswith("_hooks")):
            yield name, value
