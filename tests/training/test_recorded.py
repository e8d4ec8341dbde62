"""A checkpoint with a right checksum and wrong contents is refused by its field, and the student is as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny

import stocnoise
from stocnoise import CheckpointError, storage
from stocnoise.training.checkpoints import Checkpoints, read, write

KEPT = Path(__file__).parent / "files" / "step-000000001.safetensors"


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def at(*keys: Any, value: Any) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


OWN = ("processes", 0)
CASES = {
    "epoch": (at("epoch", value=-1), r"epoch must be a whole number"),
    "step": (at("step", value="x"), r"step must be"),
    "stop": (at("stop", value=1), r"stop must be true or false"),
    "no model": (lambda tree: tree.pop("model"), "model is missing"),
    "model": (at("model", "0.weight", value=3.0), r"model\['0\.weight'\] must be a tensor"),
    "shape": (at("model", "0.weight", value=torch.zeros(2)), r"another shape of 0\.weight"),
    "optimizer": (at("optimizer", "param_groups", value={}), r"optimizer\.param_groups must be a list"),
    "groups": (at("optimizer", "param_groups", value=[]), "another optimizer"),
    "group's keys": (at("optimizer", "param_groups", 0, value={}), "another optimizer"),
    "scheduler": (at("scheduler", value=7), "another scheduler"),
    "no scheduler": (lambda tree: tree.pop("scheduler"), "another scheduler"),
    "gamma": (at("gamma", value={}), "another gamma"),
    "history": (at("history", value=[{"x": 1}]), r"history\[0\]\.epoch is missing"),
    "figure": (at("history", value=[{"epoch": 1, "loss": "x"}]), r"history\[0\]\.loss must be a number"),
    "callbacks": (at("callbacks", value=[{}]), "another callbacks"),
    "processes": (at("processes", value=[]), "processes must be at least 1"),
    "tally": (at(*OWN, "tally", value=torch.zeros(3)), "tally of 3 figures"),
    "buffers": (at(*OWN, "buffers", value=[torch.zeros(3)]), "buffers of another model"),
    "torch": (at(*OWN, "random", "torch", value=torch.zeros(3)), r"random\.torch must be a tensor of torch\.uint8"),
    "python": (at(*OWN, "random", "python", value=(3, (1, 2), None)), r"random\.python must be a state"),
    "numpy": (at(*OWN, "random", "numpy", value=[1]), r"random\.numpy must be a state"),
    "settings": (at("settings", value=[]), "settings must be an object"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_its_field(case: str, tmp_path: Path) -> None:
    tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    newest = Checkpoints(tmp_path).paths()[-1]
    tree = read(newest)
    change, words = CASES[case]
    change(tree)
    write(newest, tree)
    student = tiny.student(seed=9)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        tiny.finetune(student, checkpoint_dir=tmp_path, resume=True)
    assert tiny.same(student.state_dict(), before)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({}, r"run\.\$ is missing"),
        ({"$": "set", "items": []}, r"run\.\$ must be one of dict, tensor, tuple"),
        ({"$": "tensor"}, r"run\.name is missing"),
        ({"$": "tensor", "name": "x"}, "there is no 'x'"),
        ({"$": "tuple", "items": 3}, r"run\.items must be a list"),
        ({"$": "dict", "items": [[1]]}, r"run\.items\[0\] must be a key and a value"),
        ({"$": "dict", "items": [[[1], 2]]}, "a key of run must be"),
        ({"$": "dict", "items": [["a", nested(400)]]}, "nested more than 100 deep"),
    ],
)
def test_what_is_no_tree_is_refused(about: Any, words: str, tmp_path: Path) -> None:
    storage.write(tmp_path / "a", "checkpoint", about, {})
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / "a")


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nested more than 100 deep"):
        write(tmp_path / "a", {"callbacks": nested(200)})
    with pytest.raises(CheckpointError, match="MiB of description"):
        write(tmp_path / "a", {"text": "x" * 2**26})
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_version_1_is_read_for_ever() -> None:
    tree = read(KEPT)
    assert tree["step"] == 1 and tree["settings"]["objective"] == "stocnoise.training.objectives.mixed"
    assert math.isclose(tree["optimizer"]["param_groups"][0]["lr"], 0.04902783136674794)
    stocnoise.training.recorded.require_run(KEPT, tree, process=0)
