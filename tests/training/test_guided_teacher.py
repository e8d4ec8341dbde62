"""The teacher of a guide: how it is asked, that it is left as it was, and which one fits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from guided_models import hooks, network, plain, step
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import PGD, Guided, Step
from stocnoise.errors import NormalizationWarning
from stocnoise.training.divergence import squared_distance


class Watched(nn.Module):
    """A teacher that notes how it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        answer = self.model(x)
        self.asked.append((self.training, torch.is_grad_enabled(), answer.dtype))
        return answer


@pytest.mark.parametrize("on", ["logits", "features"])
def test_the_teacher_is_left_as_it_was(on: Any) -> None:
    teacher = Watched(plain().train())
    teacher.model[1].eval()
    state = copy.deepcopy(teacher.state_dict())
    modes = [module.training for module in teacher.modules()]
    student = tiny.student()
    names = list(student.state_dict())
    tiny.finetune(student, objective=Guided(teacher, 1.0, on=on))
    assert set(teacher.asked) == {(False, False, torch.float32)}
    assert len(teacher.asked) == 1 + 6  # the trial, then once a step
    assert tiny.same(teacher.state_dict(), state)
    assert [module.training for module in teacher.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert list(student.state_dict()) == names
    assert hooks(teacher) == hooks(student) == 0


def test_a_noisy_teacher_keeps_its_noise() -> None:
    teacher = tiny.student(seed=1, gamma=1.0)
    stocnoise.calibrate(teacher, [tiny.data(24).tensors[0]])
    sigma = teacher[2].sigma.clone()
    student, losses = tiny.student(gamma=0.0), []
    for seed in (0, 1):
        made = Step(student.eval(), *tiny.data(8).tensors, PGD(eps=0.0, steps=1))
        torch.manual_seed(seed)
        losses.append(Guided(teacher, 1.0, objective="clean")(made))
    assert losses[0] != losses[1]
    assert torch.equal(teacher[2].sigma, sigma)


def test_mixed_precision_is_the_teachers_too() -> None:
    teacher = Watched(plain())
    for precision, dtype in (("bf16", torch.bfloat16), ("no", torch.float32)):
        teacher.asked.clear()
        for on in ("logits", "features"):
            history = tiny.finetune(
                tiny.student(), objective=Guided(teacher, 1.0, on=on), precision=precision, epochs=1
            )
            assert history[-1].loss > 0
        assert {asked[2] for asked in teacher.asked[1:4]} == {dtype}


def test_a_teacher_of_another_precision_is_asked_as_a_copy() -> None:
    teacher = network(seed=1).float()
    made = step(network())
    loss = Guided(teacher, 1.0)(made)
    assert loss.dtype == torch.float64 and {p.dtype for p in teacher.parameters()} == {torch.float32}
    wide = copy.deepcopy(teacher).double()
    torch.testing.assert_close(
        loss, made.loss(made.passes[0].output) + squared_distance(made.passes[0].output, wide(made.x)).mean()
    )


def test_further_inputs_and_output_are_the_teachers_too() -> None:
    class Scaled(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = network(seed=seed).float()

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"other": x, "scores": self.net(x * scale[:, None, None, None])}

    x, y = tiny.data(8).tensors
    scale = torch.linspace(0.1, 1.0, 8)
    loader = DataLoader(TensorDataset(x, y, scale), 8)
    for on in ("logits", "features"):
        student, teacher = Scaled(0), Scaled(1)
        before = copy.deepcopy(student)
        history = tiny.finetune(
            student,
            loader,
            batch=(0, 1, 2),
            output="scores",
            objective=Guided(teacher, 1.0, on=on, objective="clean"),
            epochs=1,
        )
        with torch.no_grad():
            mine, theirs = (
                model.net[: 4 if on == "logits" else 3](x * scale[:, None, None, None]) for model in (before, teacher)
            )
            expected = F.cross_entropy(before(x, scale)["scores"], y) + (mine - theirs).square().sum(1).mean()
        assert history[-1].loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "teacher", "words"),
    [
        ({}, lambda: plain()[:7], r"outputs have shape \(8, 3\) and the teacher's \(8, 16\)"),
        ({"on": "features"}, lambda: plain(width=8), r"features have shape \(8, 16\).* \(8, 32\)"),
        ({"on": "features"}, lambda: plain()[:7], "no Linear layer"),
        ({"on": "features", "layer": "8"}, lambda: plain(), "layer='8' is no layer of"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_any_step(
    settings: dict[str, Any], teacher: Callable[[], nn.Module], words: str
) -> None:
    student = tiny.student()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=words):
        tiny.finetune(student, objective=Guided(teacher(), **settings))
    assert tiny.same(student.state_dict(), before)
    assert hooks(student) == 0


def test_a_teacher_that_shares_weights_with_the_student_is_refused() -> None:
    student = tiny.student()
    for teacher in (student, nn.Sequential(student[0], *plain()[1:])):
        with pytest.raises(ValueError, match=r"share weights \(0.weight\).*deepcopy"):
            tiny.finetune(student, objective=Guided(teacher))


def test_a_teacher_of_normalised_images_that_is_given_pixels_is_warned_of() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    teacher.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # type: ignore[assignment]
    data = [(torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]))]
    student = stocnoise.normalized(copy.deepcopy(teacher))
    with pytest.warns(NormalizationWarning, match="Sequential"):
        tiny.finetune(student, data, objective=Guided(teacher), epochs=1)


def test_another_layer_by_name_or_function() -> None:
    student, teacher = network(), network(seed=1)
    for layer in ("2", lambda model: model[2]):
        made = step(student)
        loss = Guided(teacher, 1.0, on="features", layer=layer, objective="clean")(made)
        apart = (student[:2](made.x) - teacher[:2](made.x)).square().sum(1).mean()
        torch.testing.assert_close(loss, F.cross_entropy(student(made.x), made.y) + apart)
