"""Tensors and JSON in one safetensors file: whole or absent, and it tells if it was altered. Nothing is unpickled."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from stocnoise.errors import FileFormatError
from stocnoise.undo import undone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["student", "checkpoint", "evaluation"]

_VERSION = {"student": 4, "checkpoint": 1, "evaluation": 1}
"""The newest of each kind; every earlier one is read too."""

_JSON = 64 * 2**20
"""Bytes of JSON that are read, and written."""

_WRITER = {"student": "stocnoise.save", "checkpoint": "stocnoise.finetune", "evaluation": "stocnoise.evaluate"}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. When the block ends well, what stands there takes the name `path`.

    It is a file beside `path`, and goes to the disk itself (fsync) before it takes the name, so that at any instant
    `path` is the old file or the new one.

    Raises:
        OSError: the file system refused (full, read-only); what stood under `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with undone(functools.partial(temporary.unlink, missing_ok=True)):
        try:
            yield temporary
            _to_disk(temporary)
            temporary.replace(path)
            _to_disk(path.parent)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"{path} could not be written, and is as it was: {reason}") from error


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """A picture in the format of the name's ending, by default Matplotlib's own; whole, or not at all."""
    place = Path(path)
    form = place.suffix[1:] or figure.canvas.get_default_filetype()
    drawn = io.BytesIO()  # where no disk is full: some of Matplotlib's formats cannot be left half-way
    figure.savefig(drawn, dpi=150, format=form)
    with replacing(place if place.suffix else place.with_suffix(f".{form}")) as temporary:
        temporary.write_bytes(drawn.getvalue())


def write(path: Path, kind: Kind, about: Any, tensors: Mapping[str, Tensor], version: int = 1) -> None:
    """Write `about` (JSON) and `tensors` (on the CPU, contiguous, no two sharing memory), all or nothing.

    Raises:
        ValueError: `about` is more than is read again.
        OSError: the file system refused (full, read-only); `path` is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    body = json.dumps(about)
    if len(body) > _JSON:
        raise ValueError(f"{len(body) / 2**20:.0f} MiB of description; {_JSON // 2**20} can be kept")
    header = {"version": str(version), "kind": kind, "stocnoise": body, "sha256": _digest(kind, body, tensors)}
    try:
        with replacing(path) as temporary:
            save_file(dict(tensors), temporary, metadata=header)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def read(path: Path, kind: Kind) -> tuple[Any, dict[str, Tensor]]:
    """What `write` wrote under this kind.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is truncated or altered, of a newer version, or something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{path} is truncated, or not a safetensors file: {error}") from error
    if "stocnoise" not in header:
        raise FileFormatError(
            f"{path} was not written by {_WRITER[kind]}; plain weights are loaded with model.load_state_dict"
        )
    version, body, found = header.get("version", ""), header["stocnoise"], header.get("kind", "")
    newest = _VERSION.get(found, _VERSION[kind])
    if not version.isascii() or not version.isdigit() or len(version) > 9 or not 1 <= int(version) <= newest:
        raise FileFormatError(f"{path} is of version {version[:9]}; this stocnoise reads up to {newest}: upgrade it")
    if header.get("sha256") != _digest(found, body, tensors):
        raise FileFormatError(f"{path} has been altered: its contents do not match its checksum")
    if found != kind:
        raise FileFormatError(f"{path} is a {found}, written by {_WRITER.get(found, 'something else')}, not a {kind}")
    if len(body) > _JSON:
        raise FileFormatError(f"{path} holds {len(body) / 2**20:.0f} MiB of description, more than is ever written")
    try:
        return json.loads(body), tensors
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: its description cannot be read as JSON: {error}") from error


def _digest(kind: str, body: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{kind}\n{body}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle of a folder to flush
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
