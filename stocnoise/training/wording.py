"""Settings in words, by which a checkpoint knows its run."""

from __future__ import annotations

import functools
from dataclasses import fields, is_dataclass
from typing import Any


def in_words(value: Any) -> str:
    """`value` in words that are the same in every process: functions by name, dataclasses by their fields."""
    if isinstance(value, functools.partial):
        arguments = [*map(in_words, value.args), *(f"{name}={in_words(v)}" for name, v in value.keywords.items())]
        return f"{in_words(value.func)}({', '.join(arguments)})"
    if is_dataclass(value) and not isinstance(value, type):
        settings = ", ".join(f"{f.name}={in_words(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({settings})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__qualname__
