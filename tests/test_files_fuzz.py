"""Files with a right checksum and wrong contents are read as what they are or refused, within memory."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stocnoise
from stocnoise.errors import CheckpointError, FileFormatError
from stocnoise.evaluation import Averaged
from stocnoise.training import checkpoints
from stocnoise.training.history import Epoch, History
from stocnoise.training.recorded import require_run
from tests.files_fuzz import CORPUS, EXAMPLE, Tied, explore, mixture, teacher

COUNT = int(os.environ.get("STOCNOISE_FUZZ", "2000"))


def student_seed(folder: Path) -> Path:
    torch.manual_seed(0)
    student = stocnoise.convert(teacher(), EXAMPLE)
    student(*EXAMPLE)
    stocnoise.save(student, folder / "student.safetensors")
    return folder / "student.safetensors"


def mixture_seed(folder: Path) -> Path:
    torch.manual_seed(0)
    student = stocnoise.convert(teacher(), EXAMPLE)
    student(*EXAMPLE)
    mixed = stocnoise.mix(Averaged(student, 3), Tied(), weight=0.6, scale=4.0)
    stocnoise.save(mixed, folder / "mixture.safetensors")
    return folder / "mixture.safetensors"


def run_tree() -> dict[str, Any]:
    """What a run's checkpoint holds, small."""
    history = History([Epoch(1, 0.5, 0.9, None, None, None, 0.01, {"act": 0.3}, 0.1, 2.0)])
    return {
        "settings": {"epochs": 2, "attack": "PGD"},
        "epoch": 1,
        "step": 3,
        "batch": 1,
        "stop": False,
        "model": {"0.weight": torch.ones(2, 2), "0.count": torch.tensor(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"last_epoch": 1},
        "callbacks": [{"best": (1, math.inf)}],
        "history": history.to_dict(),
        "processes": [
            {
                "random": {
                    "torch": torch.zeros(16, dtype=torch.uint8),
                    "python": random.Random(0).getstate(),
                    "numpy": [torch.zeros(624, dtype=torch.int64), 0, 0, 0.0],
                },
                "tally": torch.zeros(6),
                "buffers": [],
            }
        ],
    }


def checkpoint_seed(folder: Path) -> Path:
    checkpoints.write(folder / "checkpoint.safetensors", run_tree())
    return folder / "checkpoint.safetensors"


class LoadsOrRefuses:
    """Reads a file as a user would."""

    def __init__(self) -> None:
        self.model, self.mixed = teacher(), mixture()
        self.before = {name: value.clone() for name, value in self._state().items()}
        self.types = self._types()
        self.loaded = self.refused = 0

    def _state(self) -> dict[str, Any]:
        return {**self.model.state_dict(), **self.mixed.state_dict(prefix="mixed.")}

    def _types(self) -> list[type]:
        return [type(module) for model in (self.model, self.mixed) for module in model.modules()]

    def student(self, path: Path) -> None:
        self._loaded(path, self.model)

    def mixture(self, path: Path) -> None:
        self._loaded(path, self.mixed)

    def _loaded(self, path: Path, model: nn.Module) -> None:
        try:
            student = stocnoise.load(path, model)
        except FileFormatError as error:
            assert str(error).startswith(str(path)) or "pass it as layer=" in str(error)
            self.refused += 1
        else:
            self.loaded += 1
            assert_sound(student)
        assert self._types() == self.types
        assert all(torch.equal(value, self.before[name]) for name, value in self._state().items())

    def checkpoint(self, path: Path) -> None:
        try:
            require_run(path, checkpoints.read(path), process=0)
        except CheckpointError as error:
            assert str(path) in str(error)
            self.refused += 1
        else:
            self.loaded += 1


def assert_sound(student: nn.Module) -> None:
    if isinstance(student, stocnoise.Mixture):
        assert 0.5 <= student.blend.weight < 1 and 0 < student.blend.scale <= 1e6 and student.blend.temperature > 0
    for _, layer in stocnoise.stochastic_layers(student):
        assert 0 <= layer.alpha <= 1 and layer.gamma >= 0 and layer.gamma.isfinite()
        assert layer.sigma.isfinite().all() and (isinstance(layer, stocnoise.StocL2P) or layer.sigma.min() >= 0)


def peak_memory() -> int:
    """Of this process, in MiB."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("kind", ["student", "mixture", "checkpoint"])
def test_every_file_of_the_corpus_is_read_or_refused(kind: str) -> None:
    reads = LoadsOrRefuses()
    for path in sorted(CORPUS.glob(f"{kind}-*")):
        getattr(reads, kind)(path)
    assert reads.refused > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["student", "mixture", "checkpoint"])
def test_mutations_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    seed = {"student": student_seed, "mixture": mixture_seed, "checkpoint": checkpoint_seed}[kind](tmp_path)
    reads, before = LoadsOrRefuses(), peak_memory()
    lines = explore([seed, *sorted(CORPUS.glob(f"{kind}-*"))], tmp_path, getattr(reads, kind), COUNT, seed=0)
    assert reads.loaded > 10 and reads.refused > COUNT / 3
    assert len({name for name, _, _ in lines}) >= 3, "the guide sees our readers"
    assert peak_memory() - before < 2048  # MiB; an example may take 1024


def main() -> None:
    """Look for new ground and keep what found some."""
    import tempfile

    CORPUS.mkdir(parents=True, exist_ok=True)
    for make in (student_seed, mixture_seed, checkpoint_seed):
        with tempfile.TemporaryDirectory() as name:
            seed, reads = make(Path(name)), LoadsOrRefuses()
            explore([seed], Path(name), getattr(reads, seed.stem), COUNT, seed=1, keep=CORPUS)
            print(f"{seed.stem}: {reads.loaded} read, {reads.refused} refused")


if __name__ == "__main__":
    main()
