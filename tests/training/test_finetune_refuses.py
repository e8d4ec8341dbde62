"""What cannot work is refused by name, and nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import training_models as tiny
from torch import nn

from stocnoise import GammaSchedule, Learn2Perturb, StocL2P


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"resume": True}, "checkpoint_dir"),
        ({"checkpoint_every": 3}, "checkpoint_dir"),
        ({"attack_target": "labels"}, "attack_target"),
        ({"objective": Learn2Perturb(), "gamma": GammaSchedule()}, "leave out gamma"),
        ({"objective": Learn2Perturb()}, "layer=StocL2P"),
        ({"gamma": GammaSchedule(epochs=7)}, "7 epochs"),
        ({"train_loader": iter([])}, "no length"),
        ({"train_loader": []}, "empty"),
        ({"train_loader": [tiny.data(8).tensors], "accumulate": 2}, "DataLoader"),
    ],
)
def test_bad_settings_are_named_before_anything_changes(settings: dict[str, Any], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        tiny.finetune(model, **settings)
    assert tiny.same(model.state_dict(), before)


def test_a_schedule_needs_a_stochastic_model() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        tiny.finetune(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), gamma=GammaSchedule())


def test_refuses_an_optimizer_that_decays_sigma() -> None:
    model = tiny.student(StocL2P)
    with pytest.raises(ValueError, match="parameter_groups"):
        tiny.finetune(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))


def test_a_wrapped_student_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass its \.module"):
        tiny.finetune(nn.DataParallel(tiny.student()))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without a GPU")
def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        tiny.finetune(tiny.student(), precision="fp16")
    tiny.finetune(tiny.student(), epochs=1, precision="bf16")  # and leaves nothing behind
