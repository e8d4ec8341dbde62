"""Faults at a chosen point: Ctrl-C or an exception at the n-th call, no memory for the n-th operator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import stocnoise

_HOME = str(Path(stocnoise.__file__).parent) + os.sep

_NO_MEMORY_NEEDED = {"__get__", "__set__", "_set_grad_enabled"}
"""Functions of torch that are asked like any other."""

Place = tuple[str, int, str]
"""File, line, and the event there."""


def _ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(_HOME)


@dataclass
class Calls:
    """Counts where our code may be interrupted, and at the chosen point raises.

    CPython lets Ctrl-C in as a function written in Python begins and when one written in C has returned: of these, the
    functions that our code calls, and our own. So a call may also fail before it has done anything. Left out is what no
    Python code can guard: the beginning of an `__exit__`.
    """

    at: int | None = None
    error: type[BaseException] = KeyboardInterrupt
    count: int = 0
    raised_at: Place | None = None
    first: dict[Place, int] = field(default_factory=dict)
    """Where each place is first come to."""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        here = frame if event.startswith("c_") else frame.f_back
        if not _ours(here) and not (event == "call" and _ours(frame)):
            return
        if event not in ("call", "c_return") or (frame.f_code.co_name, event) == ("__exit__", "call"):
            return
        at = here if _ours(here) and here is not None else frame
        place = at.f_code.co_filename.removeprefix(_HOME), at.f_lineno, event
        self.first.setdefault(place, self.count)
        self.count += 1
        if self.count - 1 == self.at:
            self.raised_at = place
            raise self.error("injected")

    @contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


class NoMemory:
    """Out of memory at the n-th operator, or function of torch; with `for_good` at all that follow too."""

    def __init__(self, at: int | None, for_good: bool = False) -> None:
        self.at, self.for_good, self.count = at, for_good, 0

    def note(self) -> None:
        self.count += 1
        if self.at is not None and (self.count - 1 == self.at or (self.for_good and self.count > self.at)):
            raise torch.OutOfMemoryError("injected")

    def of(self, what: str) -> TorchDispatchMode | TorchFunctionMode:
        """Within it, it is noted of "operators" or of "functions"."""
        return self.of_operators() if what == "operators" else self.of_functions()

    def of_operators(self) -> TorchDispatchMode:
        note = self.note

        class Operators(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                note()
                return func(*args, **(kwargs or {}))

        return Operators()

    def of_functions(self) -> TorchFunctionMode:
        note = self.note

        class Functions(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if getattr(func, "__name__", "") not in _NO_MEMORY_NEEDED:
                    note()
                return func(*args, **(kwargs or {}))

        return Functions()


def caught(run: Callable[[], Any]) -> BaseException | None:
    """What `run` raises, without the frames that hold on to what it had."""
    try:
        run()
    except BaseException as error:
        found: BaseException | None = error
        while found is not None:
            found.__traceback__ = None
            found = found.__cause__ or found.__context__
        return error
    return None
