"""What a run tells while it goes, and of itself afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_models as tiny

import stocnoise
from stocnoise import Callback


def test_callbacks_are_called_and_may_stop(tmp_path: Path) -> None:
    calls: list[str] = []

    class Record(Callback):
        def on_epoch_begin(self, run: stocnoise.training.Run) -> None:
            calls.append(f"begin {run.epoch}")

        def on_epoch_end(self, run: stocnoise.training.Run) -> None:
            calls.append(f"end {run.epoch} {len(run.history)}")
            run.stop = run.epoch == 2

        def on_checkpoint(self, run: stocnoise.training.Run, path: Path) -> None:
            calls.append(path.name)

    history = tiny.finetune(tiny.student(), epochs=5, callbacks=[Record()], checkpoint_dir=tmp_path)
    assert len(history) == 2
    assert calls == [
        "begin 0",
        "end 1 1",
        "step-000000003.safetensors",
        "begin 1",
        "end 2 2",
        "step-000000006.safetensors",
    ]


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = tiny.finetune(tiny.student(), checkpoint_dir=tmp_path, log_with="tensorboard")
    events = EventAccumulator(str(tmp_path / "stocnoise"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e.loss for e in history])
    assert [e.step for e in events.Scalars("sigma/2")] == [3, 6]


def test_progress_bar_shows_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    tiny.finetune(tiny.student(), progress=True, objective="mixed")
    shown = capsys.readouterr().err
    for word in ("epoch 2/2", "loss=", "acc=", "robust=", "γ=0.01"):
        assert word in shown


def test_history_draws_itself(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = tiny.finetune(tiny.student(), objective="mixed", val_loader=tiny.loader())
    figure = history.plot(str(tmp_path / "run.png"))
    accuracies, gamma, sigma = figure.axes
    assert [line.get_label() for line in accuracies.lines] == [
        "accuracy",
        "robust accuracy",
        "val accuracy",
        "val robust accuracy",
    ]
    assert list(gamma.lines[0].get_ydata()) == [e.gamma for e in history]
    assert len(sigma.lines) == 2
    assert (tmp_path / "run.png").stat().st_size > 0
