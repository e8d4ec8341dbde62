"""Taking back what a block of code changes, also where Ctrl-C comes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Within the block things may be otherwise; on leaving it `undo` is called, and once more if that is interrupted.

    So it must be one that can be called twice, and after a part of the changes. They belong inside the block.
    """
    try:
        yield
        undo()
    except BaseException:
        undo()
        raise


@contextmanager
def same_modes(model: nn.Module) -> Iterator[list[tuple[nn.Module, bool]]]:
    """After the block every module is in training or eval mode as before; gives the modules and their modes."""
    modes = [(module, module.training) for module in model.modules()]
    with attributes_kept("training", modes):
        yield modes


@contextmanager
def attributes_kept(name: str, held: Iterable[tuple[Any, Any]]) -> Iterator[None]:
    """After the block the attribute of each object is the value beside it."""
    values = list(held)

    def undo() -> None:
        for holder, value in values:
            setattr(holder, name, value)

    with undone(undo):
        yield


@contextmanager
def handles() -> Iterator[list[Any]]:
    """A list for handles of hooks, which are removed after the block."""
    held: list[Any] = []

    def undo() -> None:
        for handle in held:
            handle.remove()

    with undone(undo):
        yield held
