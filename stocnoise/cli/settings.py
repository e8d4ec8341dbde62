"""A command's settings as a dataclass: flags and a TOML file that say them, and the file written beside the result."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from stocnoise.checks import check_number, check_whole
from stocnoise.storage import replacing

S = TypeVar("S")
NAME = "settings.toml"


Check = Callable[[str, Any], None]
natural = partial(check_whole, least=0)
positive = partial(check_number, above=0)


def setting(
    help: str,
    default: Any = MISSING,
    *,
    choices: tuple[str, ...] = (),
    positional: bool = False,
    check: Check | None = None,
) -> Any:
    """A field of settings; one without a default must be given, by a flag or in the file. A number has a `check`."""
    more = {"help": help, "choices": choices, "positional": positional, "check": check}
    return field(metadata=more) if default is MISSING else field(default=default, metadata=more)


def add_flags(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """`--settings FILE`, and a flag for each field. What is not given is absent from the options."""
    parser.add_argument("--settings", type=Path, metavar="FILE", help="TOML with any of these; flags come first")
    hints = get_type_hints(cls)
    for one in fields(cls):
        element, many = _kind(hints[one.name])
        told: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(one)}
        if element is bool:
            told["action"] = argparse.BooleanOptionalAction
        else:
            told["type"] = element
            if one.metadata["choices"]:
                told["choices"] = one.metadata["choices"]
        if one.metadata["positional"]:
            parser.add_argument(one.name, nargs="*" if many else "?", metavar=one.name.upper(), **told)
        else:
            if many:
                told["nargs"] = "+"
            parser.add_argument(f"--{one.name.replace('_', '-')}", dest=one.name, **told)


def read(cls: type[S], options: argparse.Namespace) -> S:
    """The settings that flags say, else the file, else the defaults.

    Raises:
        ValueError: one is missing, unknown, of another type or out of range; the message names it.
        FileNotFoundError: there is no such file.
    """
    told = load(cls, options.settings) if options.settings else {}
    for one in fields(cls):  # type: ignore[arg-type]
        given = getattr(options, one.name, None)
        if given is not None and given != []:
            told[one.name] = tuple(given) if isinstance(given, list) else given
        elif one.name not in told and one.default is MISSING:
            flag = one.name.upper() if one.metadata["positional"] else f"--{one.name.replace('_', '-')}"
            raise ValueError(f"{flag} is missing: {one.metadata['help']}")
        if one.metadata["check"] is not None and told.get(one.name) is not None:
            for value in told[one.name] if isinstance(told[one.name], tuple) else [told[one.name]]:
                one.metadata["check"](f"--{one.name.replace('_', '-')}", value)
    return cls(**told)


def load(cls: type[Any], path: Path) -> dict[str, Any]:
    """What a file says, each value of its field's type."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    hints, known = get_type_hints(cls), {one.name: one for one in fields(cls)}
    for name, value in found.items():
        if name not in known:
            raise ValueError(f"{path}: {name} is no setting of this command, only {', '.join(known)}")
        found[name] = _fitting(value, hints[name], known[name], f"{path}: {name}")
    return found


def write(settings: Any, path: Path) -> None:
    """The file that says these settings; a reader never sees half of it."""
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    lines = [f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def keep(settings: Any, folder: Path, free: tuple[str, ...]) -> None:
    """Write the settings into the folder of a result; ValueError if it has others, but for those that are `free`."""
    path = folder / NAME
    if path.exists():
        before = type(settings)(**load(type(settings), path))
        other = [
            f"{one.name} ({getattr(before, one.name)}, now {getattr(settings, one.name)})"
            for one in fields(settings)
            if one.name not in free and getattr(before, one.name) != getattr(settings, one.name)
        ]
        if other:
            raise ValueError(f"{folder} is of other settings: {', '.join(other)}; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write(settings, path)


def _kind(hint: Any) -> tuple[type, bool]:
    """The type of a value or of its elements, and whether there are many."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    given = [one for one in get_args(hint) if one is not NoneType]
    return (given[0] if given else hint), False


def _help(one: Field[Any]) -> str:
    if one.default is MISSING or one.default in (None, ()) or one.default is False:
        return str(one.metadata["help"])
    shown = " ".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    return f"{one.metadata['help']} (default {shown})"


def _fitting(value: Any, hint: Any, one: Field[Any], name: str) -> Any:
    element, many = _kind(hint)
    if many:
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(_fitting(item, element, one, name) for item in value)
    if element is float and type(value) is int:
        value = float(value)
    if type(value) is not element:
        wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[element]
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    if one.metadata["choices"] and value not in one.metadata["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(one.metadata['choices'])}, not {value!r}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # text, numbers and booleans are written as in TOML
