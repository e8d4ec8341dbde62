"""Checkpoints that survive a kill, a full disk and a flipped bit: safetensors with the rest as JSON in its header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from stocnoise import storage
from stocnoise.errors import CheckpointError, FileFormatError
from stocnoise.training.checks import check_whole

_MARK = "$"  # the key of a JSON object that stands for something JSON does not have


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors put into `tensors` under their path."""
    if isinstance(value, Tensor):
        # Tied weights are one storage under two names, which safetensors refuses.
        own = value.detach().to("cpu", copy=True).contiguous()
        tensors[path] = own
        return {_MARK: "tensor", "name": path}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_MARK: "tuple", "items": [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        # Optimisers number their parameters, and JSON knows only text as a key.
        items = [[_pack(key, path, tensors), _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]
        return {_MARK: "dict", "items": items}
    raise CheckpointError(
        f"{path} is a {type(value).__name__}, which a checkpoint cannot hold: only tensors, numbers, text, None, and "
        "lists, tuples and dicts of these"
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value[_MARK]:
        case "tensor":
            return tensors[value["name"]]
        case "tuple":
            return tuple(_unpack(item, tensors) for item in value["items"])
        case "dict":
            return {_hashable(_unpack(key, tensors)): _unpack(item, tensors) for key, item in value["items"]}
    raise KeyError(value[_MARK])


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


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
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error}. Earlier checkpoints are as they were") from error


def read(path: Path) -> Any:
    """What `write` wrote.

    Raises:
        CheckpointError: there is no such file, it is truncated or altered, not a checkpoint, or of a newer version.
    """
    try:
        about, tensors = storage.read(path, "checkpoint")
    except (OSError, FileFormatError) as error:
        raise CheckpointError(str(error)) from error
    return _unpack(about, tensors)


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
    """What keeps a state dict from being `expected`'s: names, shapes or dtypes; None if nothing does."""
    common = [name for name in expected if name in found]
    differences = {
        "lacks": [name for name in expected if name not in found],
        "also has": [name for name in found if name not in expected],
        "has another shape of": [name for name in common if expected[name].shape != found[name].shape],
        "has another dtype of": [name for name in common if expected[name].dtype != found[name].dtype],
    }
    problems = []
    for what, names in differences.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{what} {', '.join(names[:3])}{more}")
    return "; ".join(problems) or None
