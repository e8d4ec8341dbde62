"""Settings in words, by which a checkpoint knows its run."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import MISSING, Field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from stocnoise.attacks.base import is_unsaid
from stocnoise.tasks import Task

UNTOLD = {"told": False}
"""Metadata of a field that a run may change when it resumes: `told` leaves it out."""


def told(group: Any) -> dict[str, Any]:
    """The settings of a group, a dataclass, as a checkpoint keeps them: plain values as they are, others in words.

    A field at its default is left out, as it is in checkpoints from before there was such a field.
    """
    values = {f.name: getattr(group, f.name) for f in fields(group) if _is_told(f, getattr(group, f.name))}
    return {name: _plain(value) if _is_plain(value) else in_words(value) for name, value in values.items()}


def _is_told(setting: Field[Any], value: Any) -> bool:
    at_default = setting.default is not MISSING and in_words(value) == in_words(setting.default)
    return setting.metadata.get("told", True) and not at_default


def in_words(value: Any) -> str:
    """`value` in words that are the same in every process: functions by name, dataclasses by their fields."""
    if isinstance(value, functools.partial):
        arguments = [*map(in_words, value.args), *(f"{name}={in_words(v)}" for name, v in value.keywords.items())]
        return f"{in_words(value.func)}({', '.join(arguments)})"
    if isinstance(value, Task):
        own = value.name == Task.name
        named = f"{value.name}({in_words(value.loss)}, {in_words(value.wrong)})" if own else value.name
        return named if value.output is None else f"{named} of output={in_words(value.output)}"
    if isinstance(value, Tensor):
        return f"tensor {hashlib.sha256(str(value.tolist()).encode()).hexdigest()[:12]} of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(in_words, value))})"
    if is_dataclass(value) and not isinstance(value, type):
        said = [f for f in fields(value) if not is_unsaid(value, f)]
        settings = ", ".join(f"{f.name}={in_words(getattr(value, f.name))}" for f in said)
        return f"{type(value).__name__}({settings})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__qualname__


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | str | Real)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON knows."""
    if value is None or isinstance(value, bool | str):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
