"""The attack on a smoothed classifier: −log of the mean probability and its gradient, in both attacks that take it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, CW, PGD
from stocnoise.attacks import target as target_module
from stocnoise.attacks.losses import loss_for, mean_probability
from stocnoise.attacks.target import Target
from stocnoise.tasks import as_task


class Drawn(nn.Module):
    """Logits W_k·x, W_k the matrix of the row's draw: draws are stacked along the batch, in their order."""

    def __init__(self, draws: int, rows: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(draws, 3, 4, dtype=torch.float64, generator=generator)
        self.rows = rows
        self.done = 0

    def forward(self, x: Tensor) -> Tensor:
        draws = len(x) // self.rows
        weights = self.weights[self.done : self.done + draws].repeat_interleave(self.rows, 0)
        self.done = (self.done + draws) % len(self.weights)
        return torch.einsum("bij,bj->bi", weights, x)


@pytest.mark.parametrize("elements", [1 << 20, 16])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_is_that_of_the_mean_probability(monkeypatch, elements: int, targeted: bool) -> None:
    """By hand in float64, also where the draws take several passes."""
    monkeypatch.setattr(target_module, "_ELEMENTS_AT_ONCE", elements)
    x = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 2])
    model = Drawn(5, 2)
    point = x.clone().requires_grad_()
    p = torch.einsum("kij,bj->kbi", model.weights, point).softmax(2).mean(0)[torch.arange(2), y]
    expected = (p if targeted else 1 / p).log()
    (gradient,) = torch.autograd.grad(expected.sum(), point)
    task = as_task("multiclass")
    target = Target(model, torch.float64, 5, task, targeted=targeted)
    found = target.ascent(x, y, loss_for(task, mean_probability))
    torch.testing.assert_close(found.gradient, gradient)
    torch.testing.assert_close(found.loss, expected.detach())
    torch.testing.assert_close(target.losses(x, y, loss_for(task, mean_probability)).mean(0), expected.detach())


def test_for_one_draw_it_is_the_tasks_own_loss() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.rand(6, 4), torch.randint(3, (6,))
    own = PGD(norm="l2", eps=0.3, steps=3, random_start=False)
    torch.testing.assert_close(dataclasses.replace(own, loss=mean_probability)(model, x, y), own(model, x, y))
    assert torch.equal(mean_probability(model(x), y), F.cross_entropy(model(x), y, reduction="none"))


@pytest.mark.parametrize("attack", [PGD, APGD])
def test_yes_or_no_and_tasks_without_a_probability(attack) -> None:
    torch.manual_seed(0)
    model = stocnoise.with_input_noise(nn.Linear(4, 1), 0.2)
    x, y = torch.rand(8, 4), torch.randint(2, (8,))
    settings = {"norm": "l2", "eps": 0.2, "steps": 3, "eot": 3, "loss": mean_probability}
    moved = attack(**settings, task="binary", restarts=2)(model, x, y)
    assert (moved - x).norm(dim=1).max() <= 0.2 + 1e-6 and not torch.equal(moved, x)
    with pytest.raises(ValueError, match="mean_probability is one of classes"):
        attack(**settings, task="multilabel")(model, x, y[:, None])


def test_training_against_it() -> None:
    torch.manual_seed(0)
    student = stocnoise.with_input_noise(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 0.2)
    data = [(torch.rand(8, 4), torch.randint(3, (8,))) for _ in range(2)]
    attack = PGD(norm="l2", eps=0.2, steps=2, eot=2, loss=mean_probability)
    before = [p.clone() for p in student.parameters()]
    stocnoise.finetune(student, data, epochs=1, objective="at", attack=attack, progress=False)
    assert not any(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert "mean_probability" in str(attack) and not hasattr(CW(), "loss")
