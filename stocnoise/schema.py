"""What JSON from a file may say, as a value: checked before anything is built of it, and refused by the field's name.

A `Spec` is called with a value and the field's name. These few lines, where a library of schemas would be a dependency
of every `import`, know all that the files need.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from stocnoise.errors import FileFormatError

Spec = Callable[[Any, str], None]

DEPTH = 100
"""How deep what recurses may nest: a tenth of what Python's own stack allows."""


def refuse(field: str, wanted: str, value: Any) -> NoReturn:
    raise FileFormatError(f"{field} must be {wanted}, not {reprlib.repr(value)}")


def anything(value: Any, field: str) -> None:
    """Whatever it is."""


def text(value: Any, field: str) -> None:
    if not isinstance(value, str):
        refuse(field, "text", value)


def boolean(value: Any, field: str) -> None:
    if not isinstance(value, bool):
        refuse(field, "true or false", value)


def choice(allowed: Collection[str]) -> Spec:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            refuse(field, f"one of {', '.join(sorted(allowed))}", value)

    return check


def number(low: float, high: float = float("inf")) -> Spec:
    """A finite number from `low` to `high`; NaN is none."""

    def check(value: Any, field: str) -> None:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not (plain and low <= value <= high and abs(value) != float("inf")):
            within = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            refuse(field, "a finite number" if low == -float("inf") else f"a finite number {within}", value)

    return check


def whole(low: int, high: int = 2**63 - 1) -> Spec:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(field, f"a whole number from {low} to {high}", value)

    return check


def optional(spec: Spec) -> Spec:
    """null, or what `spec` says."""

    def check(value: Any, field: str) -> None:
        if value is not None:
            spec(value, field)

    return check


def items(spec: Spec, most: int | None = None) -> Spec:
    """A list of any number, or at `most` so many, of what `spec` says."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, list) or (most is not None and len(value) > most):
            refuse(field, "a list" if most is None else f"a list of at most {most}", value)
        for i, item in enumerate(value):
            spec(item, f"{field}[{i}]")

    return check


def mapping(spec: Spec) -> Spec:
    """An object whose keys are free and whose values are what `spec` says."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            refuse(field, "an object", value)
        for key, item in value.items():
            spec(item, f"{field}[{reprlib.repr(key)}]")

    return check


def record(fields: Mapping[str, Spec], optional: Mapping[str, Spec] | None = None, *, others: bool = False) -> Spec:
    """An object that has these `fields`, perhaps the `optional` ones, and no other unless `others` may be there."""
    known = {**fields, **(optional or {})}

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            refuse(field or "the description", "an object", value)
        prefix = f"{field}." if field else ""
        for name in fields:
            if name not in value:
                raise FileFormatError(f"{prefix}{name} is missing")
        for name, item in value.items():
            if name in known:
                known[name](item, prefix + name)
            elif not others:
                raise FileFormatError(f"{prefix}{reprlib.repr(name)} is not known here")

    return check
