"""What a user of `finetune` relies on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import nn

import stocnoise
from stocnoise import Learn2Perturb, StocFixed, StocL2P, stochastic_layers
from stocnoise.training.checkpoints import Checkpoints


def accuracy(model: nn.Module) -> float:
    x, y = tiny.data(200, seed=5).tensors
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == y).float().mean().item()


def test_learns_and_reports() -> None:
    model = tiny.student()
    history = tiny.finetune(model, tiny.loader(64), epochs=6, val_loader=tiny.loader(48))
    assert accuracy(model) > 0.9
    assert [e.epoch for e in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].loss < history[0].loss
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy > 0.9
    assert history[-1].accuracy is None  # "at" makes no clean pass
    assert [e.gamma for e in history] == pytest.approx([0.01 + 0.015 * k for k in range(6)])
    assert {round(layer.gamma.item(), 6) for _, layer in stochastic_layers(model)} == {0.1}
    assert list(history[-1].sigma) == ["2", "5"]
    assert history[-1].sigma["2"] == pytest.approx(model[2].sigma.mean().item())


def test_the_five_settings_of_the_paper() -> None:
    """None, AT, TRADES, Learn2Perturb and ANIS² are one program."""
    relu_net = tiny.student()
    relu_net[2], relu_net[5] = nn.ReLU(), nn.ReLU()
    settings: list[tuple[nn.Module, dict[str, Any]]] = [
        (copy.deepcopy(relu_net), {"objective": "clean"}),
        (copy.deepcopy(relu_net), {"objective": "at"}),
        (copy.deepcopy(relu_net), {"objective": "trades"}),
        (tiny.student(StocL2P), {"objective": Learn2Perturb(noise_after=1, adversarial_after=2)}),
        (tiny.student(), {"objective": "at"}),
        (tiny.student(StocFixed), {"objective": "at"}),
    ]
    for model, chosen in settings:
        history = tiny.finetune(model, tiny.loader(48), epochs=5, **chosen)
        assert accuracy(model) > 0.8, chosen
        assert (history[-1].gamma is None) == (not any(stochastic_layers(model)))


def test_same_seed_same_run_whatever_came_before() -> None:
    states = []
    for warm_up in (0, 5):
        torch.randn(warm_up)
        model = tiny.student()
        tiny.finetune(model, seed=3)
        states.append(model.state_dict())
    other = tiny.student()
    tiny.finetune(other, seed=4)
    assert tiny.same(*states)
    assert not tiny.same(states[0], other.state_dict())


def test_leaves_modes_and_forward_as_found() -> None:
    model = tiny.student().eval()
    model[1].train()
    tiny.finetune(model, precision="bf16")
    assert not model.training
    assert model[1].training
    assert "forward" not in vars(model)
    assert copy.deepcopy(model)(torch.rand(2, 1, 6, 6)).dtype == torch.float32


def test_a_converted_model_trains() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    student = stocnoise.convert(teacher, torch.rand(2, 1, 6, 6))
    tiny.finetune(student, tiny.loader(64), epochs=5)
    assert accuracy(student) > 0.9
    assert accuracy(stocnoise.revert(student)) > 0.9


def test_the_newest_checkpoint_is_the_end_of_the_run(tmp_path: Path) -> None:
    from stocnoise.training.checkpoints import read

    model = tiny.student()
    tiny.finetune(model, checkpoint_dir=tmp_path)
    assert tiny.same(read(Checkpoints(tmp_path).paths()[-1])["model"], model.state_dict())
