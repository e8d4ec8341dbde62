"""A checkpoint knows its run by the settings, those of earlier versions too."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import training_models as tiny

from stocnoise.attacks import BIM
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.wording import UNTOLD, told

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


@dataclass(frozen=True)
class Group:
    rate: float
    attack: BIM
    shown: bool = field(default=True, metadata=UNTOLD)
    later: str = "as before"


def test_a_setting_is_told_unless_it_says_what_was_done_without_it() -> None:
    assert told(Group(0.5, BIM(eps=0.1))).keys() == {"rate", "attack"}
    assert told(Group(0.5, BIM(eps=0.1), shown=False, later="otherwise"))["later"] == "otherwise"
