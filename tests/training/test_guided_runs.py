"""A guide in whole runs: checkpoints, accumulation, averages, compilers, settings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import training_models as tiny
from guided_models import hooks, network, plain
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import MART, PGD, Averaged, Guided, Learn2Perturb, StocL2P, Trades
from stocnoise.errors import CheckpointError
from stocnoise.training.checkpoints import Checkpoints, read


def test_a_checkpoint_knows_the_teacher_by_its_weights_and_does_not_print_it(tmp_path: Any) -> None:
    teacher = plain()

    def run(guide: Guided) -> None:
        tiny.finetune(tiny.student(), objective=guide, checkpoint_dir=tmp_path, resume=True)

    run(Guided(teacher, 0.5))
    said = read(Checkpoints(tmp_path).paths()[-1])["settings"]["objective"]
    assert said.startswith("Guided(Sequential ") and len(said) < 120 and "Conv2d" not in said
    assert "weight=0.5, on='logits', objective=stocnoise.training.objectives.at" in said
    run(Guided(copy.deepcopy(teacher).eval(), 0.5, objective="at"))  # the same weights are the same teacher
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[7].bias[0] += 1e-3
    normalised = stocnoise.normalized(teacher, 0.5, 0.5)
    assert repr(Guided(normalised)) != repr(Guided(stocnoise.normalized(teacher, 0.5, 0.2)))
    for guide in (
        Guided(other, 0.5),
        Guided(normalised, 0.5),
        Guided(teacher, 0.6),
        Guided(teacher, 0.5, objective="mixed"),
    ):
        with pytest.raises(CheckpointError, match="objective"):
            run(guide)


def test_interrupted_it_resumes_bit_for_bit(tmp_path: Any) -> None:
    class Stop(stocnoise.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == 4 and stop:
                raise KeyboardInterrupt

    noisy = tiny.student(seed=1, gamma=0.5)
    stocnoise.calibrate(noisy, [tiny.data(24).tensors[0]])

    def run(folder: str) -> nn.Module:
        student = tiny.student()
        guide = Guided(noisy, on="features", objective=Averaged())
        given = {"checkpoint_dir": tmp_path / folder, "checkpoint_every": 1, "resume": True, "callbacks": [Stop()]}
        tiny.finetune(student, objective=guide, **given)
        return student

    stop = False
    whole = run("whole")
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run("interrupted")
    stop = False
    assert tiny.same(run("interrupted").state_dict(), whole.state_dict())


def test_learn2perturb_within_a_guide_keeps_its_schedule() -> None:
    student = tiny.student(StocL2P)
    gammas = []

    class Note(stocnoise.Callback):
        def on_step_end(self, run: Any) -> None:
            gammas.append(float(run.student[2].gamma))

    guided = Guided(plain(), objective=Learn2Perturb(noise_after=1, adversarial_after=1))
    tiny.finetune(student, objective=guided, callbacks=[Note()])
    assert gammas == [0.0] * 3 + [1.0] * 3
    with pytest.raises(ValueError, match="Learn2Perturb sets gamma itself"):
        tiny.finetune(student, objective=guided, gamma=0.1)


def test_accumulated_halves_are_the_whole_batch() -> None:
    """Of a model without statistics, in float64; the attack starts at random, so of clean images."""
    x, y = tiny.data(16).tensors
    trained = []
    for size, accumulate in ((16, 1), (8, 2)):
        student, teacher = network(), network(seed=1)
        loader = DataLoader(TensorDataset(x.double(), y), size, shuffle=False)
        guide = Guided(teacher, 1.0, on="features", objective="clean")
        tiny.finetune(student, loader, objective=guide, accumulate=accumulate, epochs=1, gamma=None)
        trained.append(student.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value)


def test_an_average_of_the_weights_gets_statistics_of_its_own() -> None:
    """The objective's passes of a copy of the student, without a warning."""
    guide = Guided(plain(), on="features", objective=Trades())
    history = tiny.finetune(tiny.student(), objective=guide, ema=0.5)
    assert history.averaged is not None and history.averaged[2].sigma.abs().sum() > 0


def test_a_last_batch_of_one_row_is_refused_before_it_is_met() -> None:
    for guide in (Guided(plain()), Guided(plain(), objective=None)):
        student = tiny.student()
        student[4] = nn.BatchNorm1d(4)
        student[3] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        student[5] = nn.ReLU()
        student[7] = nn.Linear(4, 3)
        with pytest.raises(ValueError, match="one row"):
            tiny.finetune(student, tiny.loader(25), objective=guide)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [{"on": "features"}, {"on": "features", "objective": None}, {"on": "logits"}])
def test_a_compiled_run_matches_an_eager_one(guide: dict[str, Any]) -> None:
    """Of models that PyTorch has no reason to compile anew for training; by an attack that stays at x."""
    trained = []
    for compiled in (False, True):
        student, teacher = network().float(), network(seed=1).float()
        attack = PGD(eps=1e-6, steps=1)
        tiny.finetune(
            student, objective=Guided(teacher, **guide), attack=attack, compile=compiled, val_loader=tiny.loader()
        )
        trained.append(student.state_dict())
        assert hooks(student) == 0 and student._compiled_call_impl is None
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": -1}, "weight"),
        ({"temperature": 0}, "temperature"),
        ({"on": "logit"}, "'logits', 'probabilities' or 'features'"),
        ({"temperature": 2.0}, "temperature is for on='probabilities'"),
        ({"layer": "fc"}, "layer is for on='features'"),
        ({"on": "features", "layer": 3}, "layer must be a layer's name"),
        ({"objective": "lbgat"}, "objective must be one of"),
        ({"objective": MART}, "an instance"),
    ],
)
def test_settings_that_do_not_belong_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Guided(network(), **settings)


def test_the_teacher_is_a_module() -> None:
    with pytest.raises(TypeError, match="teacher must be"):
        Guided("resnet18")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"an instance, such as Guided\(\)"):
        tiny.finetune(tiny.student(), objective=Guided)  # type: ignore[arg-type]
