"""What was found for each input, kept in a file from which a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise import schema
from stocnoise.errors import FileFormatError
from stocnoise.storage import replacing


@dataclass(frozen=True)
class Row:
    """One input: which, its label, the class chosen (−1 if it abstained), the radius, and what it was drawn from."""

    index: int
    digest: str
    label: int
    predicted: int
    radius: float
    hits: int
    draws: int
    not_finite: int


_ROW = (
    schema.whole(0),
    schema.text,
    schema.whole(0),
    schema.whole(-1),
    schema.number(0),
    schema.whole(0),
    schema.whole(1),
    schema.whole(0),
)


def _row(value: Any, field: str) -> None:
    schema.items(schema.anything, len(_ROW))(value, field)
    if len(value) != len(_ROW):
        schema.refuse(field, f"a list of {len(_ROW)}", value)
    for i, (spec, item) in enumerate(zip(_ROW, value, strict=True)):
        spec(item, f"{field}[{i}]")


_FILE = schema.record(
    {
        "kind": schema.choice(["certificate"]),
        "version": schema.whole(1, 1),
        "model": schema.text,
        "settings": schema.mapping(schema.anything),
        "warnings": schema.items(schema.text),
        "rows": schema.items(_row),
    }
)


@dataclass(frozen=True)
class Record:
    """A certificate as JSON has it, or a part of one."""

    model: str
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """All of it, or nothing: a reader never sees half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "kind": "certificate",
            "version": 1,
            "model": self.model,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "rows": [list(astuple(row)) for row in self.rows],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about, allow_nan=False))

    @staticmethod
    def read(path: Path) -> Record:
        """FileFormatError if `path` holds anything else, FileNotFoundError if it holds nothing."""
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            about = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{path} cannot be read as JSON: {error}") from error
        try:
            _FILE(about, "")
        except FileFormatError as error:
            raise FileFormatError(f"{path} is no certificate: {error}") from None
        rows = tuple(Row(*row) for row in about["rows"])
        return Record(about["model"], about["settings"], tuple(about["warnings"]), rows)


def part_of(path: Path, rank: int, world: int) -> Path:
    """Where a process keeps its rows until all are done."""
    return path if world == 1 else path.with_name(f"{path.name}.{rank}")


def earlier(path: Path, settings: Mapping[str, Any]) -> dict[int, Row]:
    """The rows that a run with these settings left under `path`, of however many processes.

    Raises:
        ValueError: they are of other settings.
        FileFormatError: a file is something else.
    """
    rows: dict[int, Row] = {}
    for place in [*([path] if path.exists() else []), *_parts(path)]:
        found = Record.read(place)
        for name, value in settings.items():
            if found.settings.get(name) != value:
                raise ValueError(
                    f"{place} is of another run: its {name} is {found.settings.get(name)}, this one's {value}; give "
                    "another path, or resume=False to begin anew"
                )
        rows |= {row.index: row for row in found.rows}
    return rows


def remove_parts(path: Path) -> None:
    for part in _parts(path):
        part.unlink(missing_ok=True)


def _parts(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if p.stem == path.name and p.suffix[1:].isdigit())


def digest(tensors: Iterable[Tensor]) -> str:
    """A short name of these values."""
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def state_digest(model: nn.Module) -> str:
    """A short name of all weights and buffers, whatever they are called."""
    return digest(value for value in model.state_dict().values() if isinstance(value, Tensor))
