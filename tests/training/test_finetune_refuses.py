"""What cannot work is refused by name, and nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import training_models as tiny
from torch import nn

from stocnoise import PGD, GammaSchedule, Learn2Perturb, StocL2P, Trades


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
        ({"val_loader": iter([])}, "val_loader"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": "2"}, "epochs must be a whole number"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"accumulate": 1.5}, "accumulate must be"),
        ({"ema": 2.0}, "ema.* below 1"),
        ({"ema": -0.1}, "ema must be"),
        ({"ema": "0.9"}, "ema must be"),
        ({"lr": 0}, "lr must be a finite number greater than 0"),
        ({"lr": "0.1"}, "lr must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"precision": "fp8"}, "precision must be"),
        ({"gamma": "a"}, "gamma must be a finite number"),
        ({"gamma": -0.1}, "gamma must be a finite number"),
        ({"objective": "pgd"}, "objective must be"),
        ({"objective": 3}, "objective must be"),
        ({"objective": Trades}, r"an instance, such as Trades\(\)"),
        ({"attack": "pdg"}, "unknown attack 'pdg'"),
        ({"attack": "transfer"}, r"attack=stocnoise.attacks.Transfer\(source=teacher\)"),
        ({"val_attack": "pdg"}, "unknown attack 'pdg'"),
        ({"attack": PGD(eps=0.1, targeted=True)}, "targeted"),
        ({"task": "regression"}, "task must be one of"),
        ({"output": 1.5}, "output must be"),
        ({"batch": "labels"}, "batch must name"),
        ({"mask": torch.tensor([0.0, 0.5])}, "mask must hold"),
    ],
)
def test_bad_settings_are_named_before_anything_changes(settings: dict[str, Any], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        tiny.finetune(model, **settings)
    assert tiny.same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attack": 3}, "attack must be a name"),
        ({"attack": PGD}, "attack must be a name"),
        ({"val_attack": 3}, "val_attack must be a name"),
        ({"criterion": 3}, "criterion must be a function"),
        ({"callbacks": [print]}, "callbacks must be instances"),
    ],
)
def test_what_is_of_another_kind_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        tiny.finetune(tiny.student(), **settings)


def test_a_student_is_a_module() -> None:
    with pytest.raises(TypeError, match=r"student must be a torch\.nn\.Module"):
        tiny.finetune(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Trades(beta=-1.0), "beta must be"),
        (lambda: Trades(beta="6"), "beta must be"),  # type: ignore[arg-type]
        (lambda: GammaSchedule("a"), "init must be"),  # type: ignore[arg-type]
        (lambda: GammaSchedule(max=None), "max must be"),  # type: ignore[arg-type]
        (lambda: GammaSchedule(interval=1.5), "interval must be"),  # type: ignore[arg-type]
        (lambda: GammaSchedule(epochs="3"), "epochs must be"),  # type: ignore[arg-type]
    ],
)
def test_objectives_and_schedules_name_what_is_wrong(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


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
