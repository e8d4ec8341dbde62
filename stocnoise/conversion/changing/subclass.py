"""A subclass whose methods are the original ones with some of their calls going elsewhere."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import GraphModule

from stocnoise.conversion.changing.edits import Rewritten, digest
from stocnoise.conversion.changing.rewrite import rewrite, rewrite_helper
from stocnoise.conversion.changing.sites import Plan
from stocnoise.conversion.finding.trace import Helper
from stocnoise.errors import ConversionError

_subclasses: weakref.WeakValueDictionary[Rewritten, type[nn.Module]] = weakref.WeakValueDictionary()
"""Those that students have: a class that nobody uses any more goes, and that of a model with it."""


def rewritten_from(module: nn.Module) -> Rewritten | None:
    """What the class of `module` was made from, if it was made here."""
    return vars(type(module)).get("_stocnoise_rewritten")


def subclasses(model: nn.Module, plan: Plan) -> dict[str, type[nn.Module]]:
    """The new class of each module whose calls change, by its path."""
    changes: dict[str, dict[str, Any]] = {path: {"methods": methods} for path, methods in plan.methods.items()}
    changes |= {path: {"entry": layer} for path, layer in plan.entries.items()}
    return {path: subclass(Rewritten(type(model.get_submodule(path)), **how)) for path, how in changes.items()}


def subclass(wanted: Rewritten) -> type[nn.Module]:
    """The subclass of `wanted.cls` with its methods rewritten; equal arguments give the same class, while it lives.

    A method that the class inherits goes into a class between it and the one that defines it, where `super()` finds it.
    """
    if (known := _subclasses.get(wanted)) is not None:
        return known
    cls, methods = wanted.cls, wanted.methods
    own: dict[str, Any] = {"forward": _entered(cls, wanted.entry)} if wanted.entry else {}
    inherited: dict[type[nn.Module], dict[str, Any]] = {}
    for edit in methods:
        if isinstance(edit.method, Helper):
            own[edit.name] = rewrite_helper(edit, edit.method)
            continue
        base = edit.method.cls
        namespace = own if base is cls or edit.name != edit.method.name else inherited.setdefault(base, {})
        namespace[edit.name] = rewrite(edit, edit.method)
    between = [_derive(base, (base,), inherited[base]) for base in cls.__mro__ if base in inherited]
    own["_stocnoise_rewritten"] = wanted
    own["_stocnoise_exhausted"] = _exhausted
    own["__reduce_ex__"] = _reduce
    if hasattr(cls, "__deepcopy__"):  # such as GraphModule's, which would build the class anew from the graph
        own["__deepcopy__"] = _deepcopy
    return _subclasses.setdefault(wanted, _derive(cls, (cls, *between), own))


def _derive(cls: type, bases: tuple[type, ...], namespace: dict[str, Any]) -> type[nn.Module]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, bases, {**names, **namespace})


def _entered(cls: type[nn.Module], layer: str) -> Callable[..., Any]:
    """The `forward` of `cls`, its input passed through a layer."""

    def forward(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        return cls.forward(self, getattr(self, layer)(x), *args, **kwargs)

    return forward


def _exhausted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    raise ConversionError(
        f"{type(self).__name__} called an activation more often than when it was converted: "
        "pass convert an example_input with which every call is made"
    )


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    made = rewritten_from(self)
    assert made is not None
    if isinstance(self, GraphModule):
        raise pickle.PicklingError(
            "a student of a torch.fx.GraphModule cannot be pickled: save its state_dict, "
            "or pickle stocnoise.revert(student)"
        )
    return _restore, (made,), self.__getstate__()


def _restore(made: Rewritten) -> nn.Module:
    for edit in made.methods:
        if digest(edit.method) != edit.digest:
            raise ConversionError(
                f"{edit.method} has changed since this student was pickled: convert the model anew "
                "and load the weights with load_state_dict or stocnoise.load"
            )
    return object.__new__(subclass(made))


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    duplicate = object.__new__(type(self))
    memo[id(self)] = duplicate
    vars(duplicate).update(copy.deepcopy(vars(self), memo))
    return duplicate
