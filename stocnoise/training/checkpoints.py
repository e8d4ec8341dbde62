"""Checkpoints that survive a kill, a full disk and a flipped bit: safetensors with the rest as JSON in its header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from stocnoise import schema, storage
from stocnoise.checks import check_whole
from stocnoise.errors import CheckpointError, FileFormatError

_MARK = "$"  # the key of a JSON object that stands for something JSON does not have


def _pack(value: Any, path: str, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """`value` as JSON, its tensors put into `tensors` under their path."""
    if isinstance(value, Tensor):
        # Tied weights are one storage under two names, which safetensors refuses.
        own = value.detach().to("cpu", copy=True).contiguous()
        tensors[path] = own
        return {_MARK: "tensor", "name": path}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth == schema.DEPTH:
        raise CheckpointError(f"{path} is nested more than {schema.DEPTH} deep, which a checkpoint cannot hold")

    def packed(value: Any, path: str) -> Any:
        return _pack(value, path, tensors, depth + 1)

    if isinstance(value, list):
        return [packed(item, f"{path}.{i}") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_MARK: "tuple", "items": [packed(item, f"{path}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, dict):
        # Optimisers number their parameters, and JSON knows only text as a key.
        items = [[packed(key, path), packed(item, f"{path}.{key}")] for key, item in value.items()]
        return {_MARK: "dict", "items": items}
    raise CheckpointError(
        f"{path} is a {type(value).__name__}, which a checkpoint cannot hold: only tensors, numbers, text, None, and "
        "lists, tuples and dicts of these"
    )


def _unpack(value: Any, path: str, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """What `_pack` packed; FileFormatError, naming the path, for anything else."""
    if not isinstance(value, list | dict):
        return value
    if depth == schema.DEPTH:
        raise FileFormatError(f"{path[:40]}… is nested more than {schema.DEPTH} deep")

    def unpacked(value: Any, path: str) -> Any:
        return _unpack(value, path, tensors, depth + 1)

    if isinstance(value, list):
        return [unpacked(item, f"{path}.{i}") for i, item in enumerate(value)]
    schema.record({_MARK: schema.choice(_FORMS)}, others=True)(value, path)
    _FORMS[value[_MARK]](value, path)
    match value[_MARK]:
        case "tensor":
            if value["name"] not in tensors:
                raise FileFormatError(f"{path} must be a tensor of this file, and there is no {value['name']!r}")
            return tensors[value["name"]]
        case "tuple":
            return tuple(unpacked(item, f"{path}.{i}") for i, item in enumerate(value["items"]))
    unpacked_items: dict[Any, Any] = {}
    for pair in value["items"]:
        key = unpacked(pair[0], path)
        if not _is_key(key):
            schema.refuse(f"a key of {path}", "a number, text or None, or a tuple of these", key)
        unpacked_items[key] = unpacked(pair[1], f"{path}.{key}")
    return unpacked_items


def _pair(value: Any, field: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        schema.refuse(field, "a key and a value", value)


_FORMS = {
    "tensor": schema.record({_MARK: schema.text, "name": schema.text}),
    "tuple": schema.record({_MARK: schema.text, "items": schema.items(schema.anything)}),
    "dict": schema.record({_MARK: schema.text, "items": schema.items(_pair)}),
}


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_key(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def write(path: Path, tree: Any) -> None:
    """Write `tree` (tensors, numbers, text, None; lists, tuples and dicts of these) to `path`, all or nothing.

    Raises:
        CheckpointError: the tree holds something else, or the file system refused (full, read-only).
    """
    tensors: dict[str, Tensor] = {}
    about = _pack(tree, "run", tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(path, "checkpoint", about, tensors)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} could not be written: {error}. Earlier checkpoints are as they were") from error


def read(path: Path) -> Any:
    """What `write` wrote.

    Raises:
        CheckpointError: there is no such file, it is truncated or altered, not a checkpoint, of a newer version, or
            says what `write` does not write.
    """
    try:
        about, tensors = storage.read(path, "checkpoint")
    except (OSError, FileFormatError) as error:
        raise CheckpointError(str(error)) from error
    try:
        return _unpack(about, "run", tensors)
    except FileFormatError as error:
        raise CheckpointError(f"{path}: {error}") from error


class Checkpoints:
    """The checkpoints of one run, one file a checkpoint, in one folder; the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        check_whole("keep_checkpoints", keep)
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def save(self, step: int, tree: Any) -> Path:
        """Write the checkpoint of `step`, then remove the oldest beyond `keep`."""
        path = self.folder / f"step-{step:09d}.safetensors"
        write(path, tree)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        for left in self._leftovers():
            left.unlink(missing_ok=True)
        return path

    def _leftovers(self) -> Iterator[Path]:
        """Temporary files of processes that were killed while they wrote."""
        return self.folder.glob(".step-*.tmp")

    def newest(self) -> tuple[Path, Any] | None:
        """The newest checkpoint and what it holds, None if there is none.

        Raises:
            CheckpointError: it is damaged. Nothing is removed; the message names the newest one that is whole.
        """
        paths = self.paths()
        if not paths:
            return None
        try:
            return paths[-1], read(paths[-1])
        except CheckpointError as error:
            whole = next((path for path in reversed(paths[:-1]) if _is_whole(path)), None)
            advice = (
                f"the last good one is {whole}: remove the damaged file to go on from it"
                if whole
                else ("there is no other: remove it to begin again")
            )
            raise CheckpointError(f"{error}; {advice}") from error


def _is_whole(path: Path) -> bool:
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def mismatch(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    """What keeps a state dict from being `expected`'s: names, shapes or dtypes of tensors; None if nothing does."""
    common = [name for name in expected if name in found]
    differences = {
        "lacks": [name for name in expected if name not in found],
        "also has": [name for name in found if name not in expected],
        **{
            f"has another {what} of": [
                name for name in common if getattr(expected[name], what, None) != getattr(found[name], what, None)
            ]
            for what in ("shape", "dtype")
        },
    }
    problems = []
    for what, names in differences.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{what} {', '.join(names[:3])}{more}")
    return "; ".join(problems) or None
