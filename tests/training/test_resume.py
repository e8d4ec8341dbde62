"""A killed run ends as if it had never been killed; another run's checkpoints are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from torch.utils.data import DataLoader

import stocnoise
from stocnoise import CheckpointError, GammaSchedule
from stocnoise.training.checkpoints import Checkpoints


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_ten_random_instants_and_while_writing(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("kill_worker.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(worker), str(tmp_path), "10", "0"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 10
    assert result["equal"] == dict.fromkeys(["random", "write", "_to_disk", "replacing", "_digest"], True)


class Interrupt(stocnoise.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.steps = 0

    def on_step_end(self, run: Any) -> None:
        self.steps += 1
        if run.step == self.step:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "loading",
    [{}, {"generator": torch.Generator()}, pytest.param({"num_workers": 2}, marks=pytest.mark.slow)],
    ids=["plain", "own generator", "workers"],
)
def test_interrupted_run_resumes_bit_for_bit(tmp_path: Path, loading: dict[str, Any], precision: str) -> None:
    def run(folder: str, step: int | None) -> tuple[torch.nn.Module, stocnoise.History, Interrupt]:
        model, interrupt = tiny.student(), Interrupt(step)
        history = tiny.finetune(
            model,
            tiny.loader(**loading),
            precision=precision,
            ema=0.5,
            optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
            checkpoint_dir=tmp_path / folder,
            checkpoint_every=1,
            resume=True,
            callbacks=[interrupt],
        )
        return model, history, interrupt

    whole, history, _ = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("interrupted", 5)
    resumed, resumed_history, interrupt = run("interrupted", None)
    assert tiny.same(whole.state_dict(), resumed.state_dict())
    assert tiny.same(history.averaged.state_dict(), resumed_history.averaged.state_dict())
    assert [e.loss for e in history] == [e.loss for e in resumed_history]
    assert interrupt.steps == 6


def test_a_finished_run_comes_back_as_it_ended(tmp_path: Path) -> None:
    first, second = tiny.student(), tiny.student(seed=9)
    history = tiny.finetune(first, checkpoint_dir=tmp_path)
    again = tiny.finetune(second, checkpoint_dir=tmp_path, resume=True)
    assert tiny.same(first.state_dict(), second.state_dict())
    assert again.to_dict() == history.to_dict()


def test_checkpoints_are_not_overwritten_unasked(tmp_path: Path) -> None:
    tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    before = [path.read_bytes() for path in Checkpoints(tmp_path).paths()]
    with pytest.raises(CheckpointError, match="resume=True"):
        tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    assert [path.read_bytes() for path in Checkpoints(tmp_path).paths()] == before


def test_another_model_is_refused_untouched(tmp_path: Path) -> None:
    tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    other = tiny.student(width=5)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another model: it has another shape of 0\.weight"):
        tiny.finetune(other, checkpoint_dir=tmp_path, resume=True)
    assert tiny.same(other.state_dict(), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 5}, "epochs: 2 → 5"),
        ({"objective": "mixed"}, "objective: .*at → .*mixed"),
        ({"attack": stocnoise.BIM(eps=0.1)}, "attack: PGD.* → BIM"),
        ({"gamma": GammaSchedule(0.0, 0.2)}, "gamma: "),
        ({"seed": 1}, "seed: 0 → 1"),
        ({"train_loader": DataLoader(tiny.data(), batch_size=4)}, "batches: 3 → 6"),
        ({"optimizer": torch.optim.Adam}, "optimizer: SGD → Adam"),
        ({"lr": 0.1}, "lr: 0.05 → 0.1"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=words):
        tiny.finetune(tiny.student(), checkpoint_dir=tmp_path, resume=True, **settings)


def test_a_truncated_newest_stops_and_its_removal_goes_on(tmp_path: Path) -> None:
    whole = tiny.student()
    tiny.finetune(whole, checkpoint_dir=tmp_path)
    newest = Checkpoints(tmp_path).paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = tiny.student()
    with pytest.raises(CheckpointError, match="last good one"):
        tiny.finetune(resumed, checkpoint_dir=tmp_path, resume=True)
    newest.unlink()
    tiny.finetune(resumed, checkpoint_dir=tmp_path, resume=True)
    assert tiny.same(whole.state_dict(), resumed.state_dict())


def test_persistent_workers_are_warned_of(tmp_path: Path) -> None:
    loader = tiny.loader(num_workers=1, persistent_workers=True)
    with pytest.warns(UserWarning, match="persistent_workers=False"):
        tiny.finetune(tiny.student(), loader, epochs=1, checkpoint_dir=tmp_path)
