"""What an argument must be: each check names it, and says what it takes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_number(name: str, value: Any, above: float | None = None) -> None:
    """ValueError unless `value` is a finite number of at least 0, or greater than `above`."""
    if not _is_number(value) or value < 0 or (above is not None and value <= above):
        wanted = "of at least 0" if above is None else f"greater than {above:g}"
        raise ValueError(f"{name} must be a finite number {wanted}, not {value!r}")


def check_share(name: str, value: Any, inner: bool = False) -> None:
    """ValueError unless `value` is a number in [0, 1], with `inner` in (0, 1)."""
    if not _is_number(value) or not (0 < value < 1 if inner else 0 <= value <= 1):
        raise ValueError(f"{name} must lie in {'(0, 1)' if inner else '[0, 1]'}, not {value!r}")


def check_seed(name: str, value: Any) -> None:
    """ValueError unless PyTorch's generators can be seeded with `value`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not -(2**63) <= int(value) < 2**64:
        raise ValueError(f"{name} must be a whole number of 64 bits, not {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """ValueError unless `value` is one of the words."""
    *all_but_last, last = map(repr, choices)
    if not isinstance(value, str) or repr(value) not in (*all_but_last, last):
        raise ValueError(f"{name} must be {', '.join(all_but_last)} or {last}, not {value!r}")


def check_tensor(name: str, value: Any) -> None:
    """ValueError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, not {_kind(value)}")


def check_values(name: str, value: Tensor) -> None:
    """ValueError if a tensor given as a setting has no values to look at."""
    if value.is_meta:
        raise ValueError(f"{name} must have values, and a tensor on the device 'meta' has none")


def check_model(name: str, value: Any) -> None:
    """TypeError unless `value` is a module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, not {_kind(value)}")


def check_function(name: str, value: Any, takes: str) -> None:
    """TypeError unless `value` can be called, and is no class; `takes` says with what."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function of {takes}, not {_kind(value)}")


def check_device(name: str, value: Any) -> None:
    """ValueError unless `value` is a device or the name of one."""
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        raise ValueError(f"{name} must be a torch.device, or its name such as 'cuda:0', not {value!r}") from None


def check_text(name: str, value: Any) -> None:
    """TypeError unless `value` is text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {value!r}")


def check_path(name: str, value: Any) -> None:
    """TypeError unless `value` names a file or a folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, as text or a pathlib.Path, not {value!r}")


def check_several(name: str, value: Any, of: str) -> None:
    """TypeError unless `value` can be gone through; text, a dict or a tensor, which can be, are one thing."""
    several = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    if not several or isinstance(value, str | bytes | Mapping | Tensor | type):
        raise TypeError(f"{name} must be several {of}, such as a list of them, not {_kind(value)}")


def check_all(name: str, value: Any, kind: type | tuple[type, ...], of: str) -> None:
    """TypeError unless `value` holds instances of `kind` alone."""
    check_several(name, value, of)
    for item in value:
        if not isinstance(item, kind):
            raise TypeError(f"{name} must be {of}, and one of them is {_kind(item)}")


def optional(check: Callable[..., None], name: str, value: Any, *more: Any, **settings: Any) -> None:
    """`check`, unless there is nothing to check."""
    if value is not None:
        check(name, value, *more, **settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: Any) -> str:
    """What it is, in a word or two; large things are not printed."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return type(value).__name__
