"""What `config.json` says of a student's model: its name, from which it is built again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stocnoise import schema
from stocnoise.architectures import builder
from stocnoise.description import apart, normalizations
from stocnoise.errors import FileFormatError
from stocnoise.normalization import normalized
from stocnoise.storage import replacing

NAME = "config.json"
_VERSION = 1
_LARGEST = 2**20  # bytes that are read


@dataclass(frozen=True)
class Config:
    """What the model is, and how it was trained. A name and a number build it: nothing that a file says is imported."""

    teacher: str | None
    """Name in timm or torchvision."""
    classes: int | None
    normalization: dict[str, Any] | None
    """mean and std, if `normalized` stands in or around the student."""
    training: dict[str, Any]

    @classmethod
    def of(cls, student: nn.Module, teacher: str | None, classes: int | None, training: Mapping[str, Any]) -> Config:
        """
        Raises:
            ValueError: there is no such model, or `normalized` stands where only code can put it.
        """
        inner, _ = apart(student)
        figures = normalizations(inner)
        if teacher is not None:
            builder(teacher)
            if set(figures) > {""} or (figures and "" not in figures):
                raise ValueError(
                    f"normalized stands at {', '.join(figures)} in this student: leave teacher out, and give hub.load "
                    "the model"
                )
        return cls(teacher, classes, figures.get(""), dict(training))

    def build(self) -> nn.Module:
        """The deterministic model with random weights; UnknownModelError if timm and torchvision have none such."""
        assert self.teacher is not None
        model = builder(self.teacher, self.classes)()
        return normalized(model, **self.normalization) if self.normalization else model

    def write(self, folder: Path) -> None:
        text = json.dumps({"stocnoise": _VERSION, **asdict(self)}, indent=1, allow_nan=False)
        with replacing(folder / NAME) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Config:
        """
        Raises:
            FileFormatError: the file says what cannot be.
            FileNotFoundError: there is none.
        """
        path = folder / NAME
        if path.stat().st_size > _LARGEST:
            raise FileFormatError(f"{path} is larger than any that hub.save writes")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{path} cannot be read as JSON: {error}") from error
        try:
            _CONFIG(found, "")
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from None
        return cls(**{key: value for key, value in found.items() if key != "stocnoise"})


def _figures(value: Any, field: str) -> None:
    one = schema.number(-float("inf"))
    (schema.items(one) if isinstance(value, list) else one)(value, field)


_CONFIG = schema.record(
    {
        "stocnoise": schema.whole(1, _VERSION),
        "teacher": schema.optional(schema.text),
        "classes": schema.optional(schema.whole(1, 10**6)),
        "normalization": schema.optional(schema.record({"mean": _figures, "std": _figures})),
        "training": schema.mapping(schema.anything),
    }
)
