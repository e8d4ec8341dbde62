"""Every public name, and the arguments that it takes: what tables of all of them are held against."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import stocnoise
from stocnoise import attacks, certification, evaluation, functional, hub, tasks, training
from stocnoise.attacks import losses

# Where public names stand, each under the shortest of its names; "" is the package itself.
MODULES: dict[str, ModuleType] = {
    "": stocnoise,
    "functional.": functional,
    "hub.": hub,
    "tasks.": tasks,
    "attacks.": attacks,
    "attacks.losses.": losses,
    "training.": training,
    "evaluation.": evaluation,
    "certification.": certification,
}


def public_names() -> dict[str, Any]:
    """Each public class and function once, by its name without "stocnoise."."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for prefix, module in MODULES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                found[prefix + name] = value
    return found


def public_calls() -> dict[str, Mapping[str, inspect.Parameter]]:
    """The arguments of every public function, of the constructor of every public class, and of its public methods.

    A method stands under the class that defines it, or, where that is not public, under the first public one.
    """
    names = public_names()
    found = {name: inspect.signature(value).parameters for name, value in names.items() if _has_arguments(value)}
    of = {value: name for name, value in names.items() if inspect.isclass(value)}
    for cls, name in of.items():
        for method, arguments in _methods(cls, set(of) - {cls}):
            found.setdefault(f"{name}.{method}", arguments)
    return {name: arguments for name, arguments in found.items() if arguments}


def _has_arguments(value: Any) -> bool:
    return not (inspect.isclass(value) and issubclass(value, BaseException))


def _methods(cls: type, others: set[type]) -> Iterator[tuple[str, Mapping[str, inspect.Parameter]]]:
    """Public methods that this class adds, or that bases add which are ours and not public; fields are none."""
    inherited = {name for base in cls.__mro__ if base in others for name in vars(base)}
    fields = getattr(cls, "__dataclass_fields__", {})
    for base in cls.__mro__:
        if not base.__module__.startswith("stocnoise.") or base in others:
            continue
        for name, member in vars(base).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not inspect.isfunction(function) or (name.startswith("_") and name != "__call__"):
                continue
            if name in inherited or name in fields:
                continue
            arguments = dict(inspect.signature(function).parameters)
            if not isinstance(member, staticmethod):
                arguments.pop(next(iter(arguments)))  # self, cls
            yield name, arguments
