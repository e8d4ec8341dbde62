"""What a model is made of, kept before it is changed: a change that fails, or is interrupted, is taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from stocnoise.conversion.changing.holders import containers


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Within the block classes, attributes and submodules may change; if it ends in an exception they are as before.

    Values of tensors are none of its business.
    """
    modules = [(module, type(module), dict(vars(module)), dict(module._modules)) for module in model.modules()]
    held = [(container, container.copy()) for container in containers(model)]
    try:
        yield
    except BaseException:
        for module, cls, attributes, children in modules:
            module.__class__ = cls
            _refill(vars(module), attributes)
            _refill(module._modules, children)
        for container, items in held:
            _refill(container, items)
        raise


def _refill(container: Any, items: Any) -> None:
    container.clear()
    container.extend(items) if isinstance(container, (list, deque)) else container.update(items)
