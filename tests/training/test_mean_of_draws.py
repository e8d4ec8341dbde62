"""The objective of the mean of draws: its loss, the images it is taken at, and what else it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, Averaged, Step
from stocnoise.attacks.losses import mean_probability
from stocnoise.predictors import mean_output
from stocnoise.tasks import Task, as_task
from stocnoise.training.step import TaskLoss


class Drawn(nn.Module):
    """Logits W_k·x for the k-th of m draws, which are stacked along the batch."""

    def __init__(self, rows: int, draws: int, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = rows
        self.weight = nn.Parameter(torch.randn(draws, outputs, 4, dtype=torch.float64))
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x) // self.rows)
        weight = self.weight[: len(x) // self.rows].repeat_interleave(self.rows, 0)
        return torch.einsum("bij,bj->bi", weight, x)


X = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
ATTACK = PGD(eps=0.2, steps=3, random_start=False)


def draws_of(model: Drawn, x: Tensor) -> Tensor:
    return torch.einsum("kij,bj->kbi", model.weight, x)


def test_the_loss_and_the_attack_are_of_the_mean_probability() -> None:
    """By hand in float64; the attack is that of the existing attack loss with as many draws."""
    model = Drawn(6, 3)
    step = Step(model, X, Y, ATTACK)
    loss = Averaged(samples=3)(step)
    assert model.passes == [3, 3, 3, 3]  # three steps of the attack, then the training pass
    made = step.images[0]
    assert all(images is made for images in step.images) and len(step.images) == 3
    expected = PGD(eps=0.2, steps=3, random_start=False, eot=3, loss=mean_probability)(model, X, Y)
    torch.testing.assert_close(made, expected)
    of_losses = PGD(eps=0.2, steps=3, random_start=False, eot=3)(model, X, Y)
    assert not torch.allclose(made, of_losses)
    by_hand = -draws_of(model, made).softmax(2).mean(0)[torch.arange(6), Y].log().mean()
    torch.testing.assert_close(loss, by_hand)
    (ours,), (theirs,) = (torch.autograd.grad(value, model.weight) for value in (loss, by_hand))
    torch.testing.assert_close(ours, theirs)


TASKS: dict[str, tuple[Any, Tensor, Any]] = {
    "binary": (
        "binary",
        torch.tensor([0.0, 1.0] * 3, dtype=torch.float64),
        lambda z, y: -torch.where(y > 0, z.sigmoid().mean(0)[:, 0], 1 - z.sigmoid().mean(0)[:, 0]).log(),
    ),
    "multilabel": (
        "multilabel",
        (X[:, :3] > 0.5).double(),
        lambda z, y: -torch.where(y > 0, z.sigmoid().mean(0), 1 - z.sigmoid().mean(0)).log().mean(1),
    ),
    "custom": (
        Task(lambda o, t: (o - t).square().mean(1), lambda o, t: o[:, 0] > t[:, 0]),
        X[:, :3],
        lambda z, y: (z.mean(0) - y).square().mean(1),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_other_tasks_take_their_own_average(name: str) -> None:
    task, y, by_hand = TASKS[name]
    task = as_task(task)
    model = Drawn(6, 2, outputs=1 if name == "binary" else 3)
    step = Step(model, X, y, replace(ATTACK, task=task), criterion=TaskLoss(task), task=task)
    loss = Averaged()(step)
    expected = by_hand(draws_of(model, step.images[0]), y)
    torch.testing.assert_close(loss, expected.mean())
    # The attack went up on the same loss, for every row: images clipped at the pixels' bounds aside.
    clean = by_hand(draws_of(model, X), y)
    assert (by_hand(draws_of(model, step.images[0]), y) > clean).all()


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "segmentation"])
def test_the_mean_has_a_gradient(task: str) -> None:
    torch.manual_seed(0)
    shape = (3, 2, 4, 2, 2) if task == "segmentation" else (3, 2, 1 if task == "binary" else 4)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: mean_output(z, as_task(task)), z)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_draws_that_are_sure_of_themselves_have_a_finite_loss(task: str) -> None:
    """Where each probability rounds to 1, the mean is as sure as they are."""
    z = torch.full((2, 4, 1 if task == "binary" else 3), -60.0)
    z[..., 0] = 60.0
    z.requires_grad_()
    meaning = as_task(task)
    y = {"multiclass": torch.full((4,), 1), "binary": torch.zeros(4), "multilabel": torch.zeros(4, 3)}[task]
    losses = meaning.loss(mean_output(z, meaning), y)
    torch.testing.assert_close(
        losses, torch.full((4,), {"multiclass": 120.0, "binary": 60.0, "multilabel": 20.0}[task])
    )
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert gradient.isfinite().all() and gradient.abs().max() > 0.1


def test_a_run_moves_sigma_once_a_step_and_counts_each_draw(tmp_path: Any) -> None:
    student = tiny.student(gamma=0.5)
    history = tiny.finetune(student, objective=Averaged(samples=2), checkpoint_dir=tmp_path)
    assert {int(layer.num_batches_tracked) for _, layer in stocnoise.stochastic_layers(student)} == {6}
    assert history[-1].robust_accuracy is not None and history[-1].accuracy is None
    with pytest.raises(stocnoise.CheckpointError, match="objective"):
        tiny.finetune(tiny.student(), objective=Averaged(samples=3), checkpoint_dir=tmp_path, resume=True)


def test_what_the_model_returns_is_read_once() -> None:
    """`output` is for the model's answer, not for the mean of what was read from it."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny.student()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.net(x)}

    assert len(tiny.finetune(Packed(), objective="averaged", output="scores", epochs=1)) == 1
    attack = PGD(eps=0.1, steps=2, output="scores")
    assert len(tiny.finetune(Packed(), objective="averaged", attack=attack, output="scores", epochs=1)) == 1


def test_samples_is_a_whole_number() -> None:
    for samples in (0, 1.5, True):
        with pytest.raises(ValueError, match="samples"):
            Averaged(samples=samples)  # type: ignore[arg-type]
    assert stocnoise.Averaged is not stocnoise.evaluation.Averaged
