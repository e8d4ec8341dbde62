"""Layers that are also instances of what stood there, for models that ask `isinstance(self.act, nn.ReLU)`, or its name.

Only for models that do ask: other libraries ask the same question to exchange, fuse or skip activations.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn

from stocnoise.layers import StochasticActivation

_disguises: weakref.WeakValueDictionary[tuple[type, type, bool], type] = weakref.WeakValueDictionary()


def disguise(layers: Iterable[StochasticActivation], *, named: bool) -> bool:
    """Let each layer that replaced a module be an instance of its class too, with what that class has; all or none.

    Args:
        layers: of one student.
        named: let its class also have the name of that class.

    Returns:
        whether there are such layers.
    """
    replacing = [layer for layer in layers if layer.replaced]
    try:
        classes = [_disguised(undisguised(layer), type(layer.replaced[0]), named) for layer in replacing]
    except TypeError:  # the classes do not go together
        return False
    for layer, cls in zip(replacing, classes, strict=True):
        layer.__class__ = cls
    return bool(replacing)


def undisguised(layer: nn.Module) -> type:
    """The class that `layer` was made of."""
    return next(cls for cls in type(layer).__mro__ if "_stocnoise_named" not in vars(cls))


def _disguised(layer: type, replaced: type, named: bool) -> type:
    key = layer, replaced, named
    if (known := _disguises.get(key)) is not None:
        return known
    shown = replaced if named else layer
    same = {name: getattr(shown, name) for name in ("__module__", "__qualname__", "__doc__")}
    ours = {"__reduce_ex__": _reduce, "_stocnoise_named": named}
    return _disguises.setdefault(key, type(layer)(shown.__name__, (layer, replaced), {**same, **ours}))


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    return _restore, (*type(self).__bases__, vars(type(self))["_stocnoise_named"]), self.__getstate__()


def _restore(layer: type, replaced: type, named: bool = False) -> nn.Module:
    made: nn.Module = object.__new__(_disguised(layer, replaced, named))
    return made
