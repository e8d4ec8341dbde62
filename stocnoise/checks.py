"""What a number given as a setting must be."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_number(name: str, value: Any, above: float | None = None) -> None:
    """ValueError unless `value` is a finite number of at least 0, or greater than `above`."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or value < 0 or (above is not None and value <= above):
        wanted = "of at least 0" if above is None else f"greater than {above:g}"
        raise ValueError(f"{name} must be a finite number {wanted}, not {value!r}")
