"""Layers that are also instances of what stood there, for models that ask `isinstance(self.act, nn.ReLU)`.

Only for models that do ask: other libraries ask the same question to exchange, fuse or skip activations.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn

from stocnoise.layers import StochasticActivation

_disguises: weakref.WeakValueDictionary[tuple[type, type], type] = weakref.WeakValueDictionary()


def disguise(layers: Iterable[StochasticActivation]) -> bool:
    """Let each layer that replaced a module be an instance of its class too, with what that class has; all or none.

    Returns:
        whether there are such layers.
    """
    replacing = [layer for layer in layers if layer.replaced]
    try:
        classes = [_disguised(type(layer), type(layer.replaced[0])) for layer in replacing]
    except TypeError:  # the classes do not go together
        return False
    for layer, cls in zip(replacing, classes, strict=True):
        layer.__class__ = cls
    return bool(replacing)


def _disguised(layer: type, replaced: type) -> type:
    if (known := _disguises.get((layer, replaced))) is not None:
        return known
    same = {name: getattr(layer, name) for name in ("__module__", "__qualname__", "__doc__")}
    made = type(layer)(layer.__name__, (layer, replaced), {**same, "__reduce_ex__": _reduce})
    return _disguises.setdefault((layer, replaced), made)


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    return _restore, type(self).__bases__, self.__getstate__()


def _restore(layer: type, replaced: type) -> nn.Module:
    made: nn.Module = object.__new__(_disguised(layer, replaced))
    return made
