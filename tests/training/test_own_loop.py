"""Two lines in somebody else's loop: an attack, and `GammaSchedule.step` after an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import GammaSchedule, stochastic_layers

EPOCHS = 3
ATTACK = stocnoise.PGD(eps=0.1, steps=2)


def gammas(model: nn.Module) -> list[float]:
    return [layer.gamma.item() for _, layer in stochastic_layers(model)]


def calibrated() -> nn.Sequential:
    model = tiny.student()
    stocnoise.calibrate(model, tiny.loader())
    return model.train()


def test_plain_pytorch() -> None:
    student = calibrated()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    schedule = GammaSchedule(init=0.01, max=0.1, epochs=EPOCHS)
    batches = 0
    for _ in range(EPOCHS):
        for x, y in tiny.loader(64):
            loss = F.cross_entropy(student(ATTACK(student, x, y)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batches += 1
        schedule.step(student)
    assert gammas(student) == pytest.approx([0.1] * 2)
    # 3 of calibration; the attack's passes moved nothing
    assert [layer.num_batches_tracked.item() for _, layer in stochastic_layers(student)] == [batches + 3] * 2
    x, y = tiny.data(200, seed=5).tensors
    assert (student.eval()(x).argmax(1) == y).float().mean() > 0.9


@pytest.mark.slow
def test_the_example_runs() -> None:
    pytest.importorskip("sklearn")
    example = Path(__file__).parents[2] / "examples" / "own_loop.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example), "--epochs", "1"], capture_output=True, text=True, env=environment, check=True
    )
    assert "epoch 1/1" in done.stdout
    assert "student: accuracy" in done.stdout
    assert done.stderr == ""


class EpochHooks:
    """A callback as Lightning and the Hugging Face Trainer call it, without either."""

    def __init__(self, schedule: GammaSchedule) -> None:
        self.schedule = schedule

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        self.schedule.step(pl_module)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        self.schedule.step(model)

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state)


class Wrapper(nn.Module):
    """The student inside another module, as a LightningModule holds it."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student


def test_callbacks_find_the_student_and_continue_from_a_json_state() -> None:
    module = Wrapper(calibrated())
    hooks = EpochHooks(GammaSchedule(0.01, 0.1, epochs=EPOCHS))
    hooks.on_train_epoch_end(SimpleNamespace(), module)
    resumed = EpochHooks(GammaSchedule(0.01, 0.1, epochs=EPOCHS))
    resumed.load_state_dict(json.loads(json.dumps(hooks.state_dict())))
    resumed.on_epoch_end(None, None, None, model=module.student)
    assert gammas(module) == pytest.approx([0.07] * 2)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.student = calibrated()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.student(ATTACK(self.student, x, y)), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Gamma(EpochHooks, lightning.Callback):  # type: ignore[misc, name-defined]
        pass

    def fit(epochs: int, checkpoint: str | None = None) -> tuple[nn.Module, Any]:
        module = Classifier()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            callbacks=[Gamma(GammaSchedule(0.01, 0.1, epochs=EPOCHS))],
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(module, tiny.loader(64), ckpt_path=checkpoint)
        return module, trainer

    module, trainer = fit(2)
    assert gammas(module) == pytest.approx([0.07] * 2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    module, _ = fit(EPOCHS, str(tmp_path / "two.ckpt"))
    assert gammas(module) == pytest.approx([0.1] * 2)


@pytest.fixture
def accelerate_reset() -> Iterator[None]:
    """The Trainer leaves Accelerate's state to the process, where the next run could not choose its precision."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()


@pytest.mark.usefixtures("accelerate_reset")
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Trainer(transformers.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *rest: Any, **others: Any) -> Tensor:
            x, y = inputs["pixel_values"], inputs["labels"]
            return F.cross_entropy(model(ATTACK(model, x, y)), y)

    class Gamma(EpochHooks, transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        pass

    student = calibrated()
    images = [{"pixel_values": x, "labels": y} for x, y in tiny.data(64)]
    trainer = Trainer(
        model=student,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=EPOCHS,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=images,
        callbacks=[Gamma(GammaSchedule(0.01, 0.1, epochs=EPOCHS))],
    )
    trainer.train()
    assert gammas(student) == pytest.approx([0.1] * 2)
