"""A checkpoint knows its run by the settings, those of earlier versions too."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
import training_models as tiny
from torch import Tensor

from stocnoise.attacks import BIM
from stocnoise.tasks import Task, as_task
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.wording import UNTOLD, in_words, told

FIRST = Path(__file__).with_name("files") / "step-000000001.safetensors"
"""Of version 1, written in the first epoch of the run below."""


def test_the_first_checkpoint_still_resumes(tmp_path: Path) -> None:
    before = read(FIRST)
    shutil.copy(FIRST, tmp_path)
    history = tiny.finetune(
        tiny.student(seed=7),
        objective="mixed",
        ema=0.5,
        max_grad_norm=1.0,
        checkpoint_dir=tmp_path,
        checkpoint_every=1,
        keep_checkpoints=9,
        resume=True,
    )
    assert len(history) == 2
    assert [path.name for path in Checkpoints(tmp_path).paths()] == [f"step-{n:09d}.safetensors" for n in range(1, 7)]
    after = read(Checkpoints(tmp_path).paths()[-1])
    assert list(after) == list(before)
    assert list(after["settings"].items()) == list(before["settings"].items())


def test_every_setting_that_decides_the_run_is_told(tmp_path: Path) -> None:
    tiny.finetune(tiny.student(), epochs=1, val_attack=BIM(eps=0.1), checkpoint_dir=tmp_path)
    assert read(Checkpoints(tmp_path).paths()[-1])["settings"] == {
        "epochs": 1,
        "objective": "stocnoise.training.objectives.at",
        "attack": "PGD(eot=1, batch_norm='eval', eps=0.1, norm='inf', steps=2, step_size=None, random_start=True, "
        "momentum=0.0, restarts=1, stop_early=False, loss=stocnoise.attacks.losses.cross_entropy)",
        "attack_target": "label",
        "gamma": "GammaSchedule(init=0.01, max=0.1, interval=1, epochs=1)",
        "seed": 0,
        "batches": 3,
        "accumulate": 1,
        "processes": 1,
        "precision": "no",
        "optimizer": "SGD",
        "lr": 0.05,
        "weight_decay": 5e-4,
        "max_grad_norm": None,
        "criterion": "torch.nn.functional.cross_entropy",
        "ema": None,
        "callbacks": [],
    }


def squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).flatten(1).mean(1)


def test_what_is_asked_is_told_where_it_is_not_the_usual(tmp_path: Path) -> None:
    task = Task(squares, lambda output, target: squares(output, target) > 0.1, name="squares")
    x = torch.rand(8, 1, 6, 6)
    tiny.finetune(
        tiny.student(),
        [{"x": x, "wanted": torch.rand(8, 3)}],
        epochs=1,
        task=task,
        batch=("x", "wanted"),
        bounds=(-1.0, 1.0),
        checkpoint_dir=tmp_path,
        gamma=0.05,
        optimizer=torch.optim.SGD,
        lr=0.01,
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        scheduler_step="epoch",
    )
    said = read(Checkpoints(tmp_path).paths()[-1])["settings"]
    assert said["task"] == "squares"
    assert said["criterion"] == "TaskLoss(task=squares)"
    assert said["batch"] == "('x', 'wanted')"
    assert "task=squares, bounds=(-1.0, 1.0)" in said["attack"]
    assert said["gamma"] == "GammaSchedule(init=0.05, max=0.05, interval=1, epochs=1)"
    assert (said["lr"], said["weight_decay"], said["scheduler_step"]) == (0.01, None, "epoch")


def test_tasks_of_ones_own_are_told_by_their_functions() -> None:
    assert in_words(Task(squares, squares)) == f"custom({__name__}.squares, {__name__}.squares)"
    assert in_words(as_task("binary", "scores")) == "binary of output='scores'"


@dataclass(frozen=True)
class Group:
    rate: float
    attack: BIM
    shown: bool = field(default=True, metadata=UNTOLD)
    later: str = "as before"


def test_a_setting_is_told_unless_it_says_what_was_done_without_it() -> None:
    assert told(Group(0.5, BIM(eps=0.1))).keys() == {"rate", "attack"}
    assert told(Group(0.5, BIM(eps=0.1), shown=False, later="otherwise"))["later"] == "otherwise"


def test_numbers_of_numpy_are_told_as_numbers() -> None:
    rate = told(Group(numpy.float32(0.5), BIM(eps=0.1)))["rate"]  # type: ignore[arg-type]
    assert (type(rate), rate) == (float, 0.5)
    assert len(tiny.finetune(tiny.student(), epochs=numpy.int64(1), gamma=numpy.float32(0.1))) == 1
