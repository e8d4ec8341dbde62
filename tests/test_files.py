"""save and load: round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import stocnoise
from stocnoise.errors import FileFormatError
from tests.file_models import EXAMPLE, Block


@pytest.fixture
def student() -> nn.Module:
    model = stocnoise.convert(Block(), EXAMPLE, alpha=0.25)
    stocnoise.calibrate(model, [torch.randn(4, 3, 8, 8) for _ in range(3)])
    stocnoise.set_gamma(model, 0.07)
    return model


@pytest.fixture
def path(student: nn.Module, tmp_path: Path) -> Path:
    stocnoise.save(student, tmp_path / "student.safetensors")
    return tmp_path / "student.safetensors"


def test_a_student_comes_back_whole(student: nn.Module, path: Path) -> None:
    teacher = Block()
    weights = {key: value.clone() for key, value in teacher.state_dict().items()}
    loaded = stocnoise.load(path, teacher)
    for key, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert loaded.head.weight is loaded.tied.weight
    layers = dict(stocnoise.stochastic_layers(loaded))
    assert {name: layer.alpha for name, layer in layers.items()} == dict.fromkeys(layers, 0.25)
    x = torch.randn(2, 3, 8, 8)
    for model in (student, loaded):
        model.eval()
    torch.manual_seed(1)
    expected = student(x)
    torch.manual_seed(1)
    assert torch.equal(loaded(x), expected)
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, weights[key]), "the model that is given stays as it is"


def test_a_partly_converted_student_comes_back_partly_converted(tmp_path: Path) -> None:
    student = stocnoise.convert(Block(), EXAMPLE, exclude="gelu")
    stocnoise.save(student, tmp_path / "s")
    loaded = stocnoise.load(tmp_path / "s", Block())
    assert [n for n, _ in stocnoise.stochastic_layers(loaded)] == [n for n, _ in stocnoise.stochastic_layers(student)]


def test_the_file_describes_itself_in_json(path: Path) -> None:
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["stocnoise"])
    assert metadata["version"] == "1"
    assert about["class"].endswith("Block")
    assert [entry["activation"] for entry in about["layers"]] == ["relu", "relu", "gelu"]
    assert all(entry["gamma"] == pytest.approx(0.07) and entry["alpha"] == 0.25 for entry in about["layers"])


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(path: Path, keep: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(FileFormatError, match="truncated"):
        stocnoise.load(path, Block())


def test_altered_weights_are_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="altered"):
        stocnoise.load(path, Block())


def test_altered_metadata_are_refused(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'\\"alpha\\": 0.25') == 3
    path.write_bytes(content.replace(b'\\"alpha\\": 0.25', b'\\"alpha\\": 0.75'))
    with pytest.raises(FileFormatError, match="altered"):
        stocnoise.load(path, Block())


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file(Block(3).one.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(FileFormatError, match="load_state_dict"):
        stocnoise.load(tmp_path / "weights.safetensors", Block())
    (tmp_path / "text").write_text("not a safetensors file, though long enough to hold a header")
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        stocnoise.load(tmp_path / "text", Block())


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "s", {"stocnoise": "{}", "version": "99"})
    with pytest.raises(FileFormatError, match=r"version 99.*upgrade"):
        stocnoise.load(tmp_path / "s", Block())


@pytest.mark.parametrize("other", [Block(16), nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())], ids=["wider", "another"])
def test_a_file_of_another_model_is_refused(path: Path, other: nn.Module) -> None:
    with pytest.raises(FileFormatError, match="Block"):
        stocnoise.load(path, other)
    assert not list(stocnoise.stochastic_layers(other))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        stocnoise.load(tmp_path / "nothing", Block())


def test_saving_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stocnoise\.convert"):
        stocnoise.save(Block(), tmp_path / "teacher")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(
    student: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        stocnoise.save(student, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
