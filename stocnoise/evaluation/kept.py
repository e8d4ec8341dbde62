"""Batches that are done, each in a file of its own, so that a killed evaluation goes on from them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise import storage
from stocnoise.errors import FileFormatError
from stocnoise.evaluation.assemble import BatchResult
from stocnoise.evaluation.examples import Shown
from stocnoise.evaluation.scoring import Parts, Score
from stocnoise.evaluation.stages import CandidateTally, StageTally
from stocnoise.evaluation.trials import Tally

_CLASSES: dict[str, Any] = {
    each.__name__: each for each in (BatchResult, Tally, Score, Parts, StageTally, CandidateTally, Shown)
}


class KeptBatches:
    """The finished batches of an evaluation beside its report.

    Args:
        report: where the report goes; the folder has its name and ".batches".
        asked: plain data: all that the figures depend on but the images.
    """

    def __init__(self, report: Path, asked: dict[str, Any]) -> None:
        self.folder, self.asked = report.with_name(f"{report.name}.batches"), asked

    def save(self, index: int, result: BatchResult) -> None:
        """Keep one, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        about = {"asked": self.asked, "result": _packed(result, tensors)}
        storage.write(self._path(index), "evaluation", about, tensors)

    def load(self, index: int, sums: Tensor) -> BatchResult | None:
        """The one of that number, if it is done.

        Raises:
            ValueError: it was asked something else, or about other images.
            FileFormatError: the file is not what `save` wrote.
        """
        path = self._path(index)
        if not path.exists():
            return None
        about, tensors = storage.read(path, "evaluation")
        try:
            asked, result = about["asked"], _unpacked(about["result"], tensors)
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{path} holds no batch of an evaluation: {error!r}") from error
        if asked != self.asked:
            other = sorted(key for key in {*asked, *self.asked} if asked.get(key) != self.asked.get(key))
            raise ValueError(f"{self.folder} holds batches of an evaluation with other {', '.join(other)}: remove it")
        if not torch.equal(result.sums, sums):
            raise ValueError(f"{path} is of other images: resume with the same data in the same batches, or remove it")
        found: BatchResult = result
        return found

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"


def digest(model: nn.Module | None) -> str:
    """A short name of a model's weights and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(({} if model is None else model.state_dict()).items()):
        if isinstance(value, Tensor):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON, tensors aside."""
    if isinstance(value, Tensor):
        tensors[name := str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if type(value).__name__ in _CLASSES:
        names = value._fields if isinstance(value, Parts) else [f.name for f in dataclasses.fields(value)]
        return {"class": type(value).__name__, "fields": {n: _packed(getattr(value, n), tensors) for n in names}}
    if isinstance(value, dict):
        return {"pairs": [[_packed(key, tensors), _packed(each, tensors)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(each, tensors) for each in value]}
    return [_packed(each, tensors) for each in value] if isinstance(value, list) else value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "class" in value:
        fields = {name: _unpacked(each, tensors) for name, each in value["fields"].items()}
        return _CLASSES[value["class"]](**fields)
    if "pairs" in value:
        return {_unpacked(key, tensors): _unpacked(each, tensors) for key, each in value["pairs"]}
    return tuple(_unpacked(each, tensors) for each in value["tuple"])
