"""MART is its formula, also where float32 has no 1 − p left, and its gradient goes where the authors' goes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import MART, PGD, Step
from stocnoise.tasks import Task, as_task
from stocnoise.training.mart import log_of_the_rest
from stocnoise.training.step import TaskLoss

ATTACK = PGD(eps=0.1, steps=2)


def linear(outputs: int = 3, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, outputs)).double()
    with torch.no_grad():
        model[1].weight *= scale
    return model


def step(model: nn.Module, y: Tensor | None = None, task: Task | None = None) -> Step:
    x, labels = tiny.data(8).tensors
    if task is None:
        return Step(model, x.double(), labels if y is None else y, ATTACK)
    return Step(
        model, x.double(), labels if y is None else y, replace(ATTACK, task=task), task=task, criterion=TaskLoss(task)
    )


def by_hand(z: Tensor, attacked: Tensor, y: Tensor, beta: float) -> Tensor:
    """With probabilities as they stand, as in the authors' code."""
    p, q = z.softmax(1), attacked.softmax(1)
    rows = torch.arange(len(y))
    second = q.clone()
    second[rows, y] = -1
    boosted = -q[rows, y].log() - (1 - second.amax(1)).log()
    divergence = (p * (p.log() - q.log())).sum(1)
    return (boosted + beta * divergence * (1 - p[rows, y])).mean()


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_value_and_gradient_are_those_of_the_formula(scale: float) -> None:
    """In float64, on the same images; the wrong class is the nearest for some rows."""
    model = linear(scale=scale)
    made = step(model)
    loss = MART(beta=3.0)(made)
    z, attacked = (model(images) for images in made.images)
    assert torch.equal(made.images[0], made.x) and not torch.equal(*made.images)
    assert (attacked.argmax(1) != made.y).any()
    expected = by_hand(z, attacked, made.y, 3.0)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, list(model.parameters()))
    for ours, theirs in zip(found, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs)


def exactly(row: list[float], k: int) -> float:
    """log(1 − softmax(z)_k), in 400 digits."""
    with localcontext() as context:
        context.prec = 400
        weights = [Decimal(value).exp() for value in row]
        return float((1 - weights[k] / sum(weights)).ln())


@pytest.mark.parametrize("gap", [0.0, 1.0, 30.0, 200.0])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_logarithm_of_the_rest(gap: float, k: int) -> None:
    row = [gap, 0.5, -0.25]
    z = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    found = log_of_the_rest(z, torch.tensor([k]))
    torch.testing.assert_close(found, torch.tensor([exactly(row, k)], dtype=torch.float64), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda z: log_of_the_rest(z, torch.tensor([k])), z)
    single = log_of_the_rest(z.detach().float(), torch.tensor([k]))
    torch.testing.assert_close(single.double(), found.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gap_of_two_hundred_has_a_finite_gradient(right: bool, dtype: torch.dtype) -> None:
    """Sure and right: nothing to learn; sure and wrong: both terms pull, −log p_y and −log(1 − p_k)."""
    model = linear().to(dtype)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([200.0, 0.0, 0.0]))
    x = tiny.data(8).tensors[0].to(dtype)
    loss = MART()(Step(model, x, torch.full((8,), 0 if right else 1), ATTACK))
    expected = 0.0 if right else 200 + 200 - torch.tensor(2.0).log().item()
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    loss.backward()
    # d/dz of −log p_1 is (1, −1, 0), of −log(1 − p_0) it is (1, −½, −½)
    pull = torch.tensor([0.0, 0.0, 0.0] if right else [2.0, -1.5, -0.5], dtype=dtype)
    torch.testing.assert_close(model[1].bias.grad, pull, atol=1e-6, rtol=1e-6)


def test_yes_or_no() -> None:
    """−2 log p_y(x') + β KL (1 − p_y), between the two classes of one logit."""
    task = as_task("binary")
    model = linear(outputs=1)
    y = torch.tensor([0.0, 1.0] * 4, dtype=torch.float64)
    made = step(model, y, task)
    loss = MART(beta=2.0)(made)
    p, q = (torch.sigmoid(model(images)[:, 0]) for images in made.images)
    own, attacked = (torch.where(y > 0, v, 1 - v) for v in (p, q))
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(loss, (-2 * attacked.log() + 2 * divergence * (1 - own)).mean())


def test_probabilities_as_labels_stand_for_the_largest() -> None:
    model = linear()
    y = tiny.data(8).tensors[1]
    soft = 0.8 * F.one_hot(y, 3).double() + 0.2 / 3
    torch.manual_seed(1)
    hard_loss = MART(beta=0.0)(step(model, soft.round()))
    torch.manual_seed(1)
    torch.testing.assert_close(MART(beta=0.0)(step(model, y)), hard_loss)
    assert MART()(step(model, soft)).isfinite()


def test_it_refuses_what_has_no_class_a_row() -> None:
    own = Task(loss=lambda o, t: (o - t).flatten(1).mean(1), wrong=lambda o, t: o[:, 0] > t)
    with pytest.raises(ValueError, match=r'"mart" needs a task with classes.*custom.*use "at"'):
        MART()(step(linear(), task=own))
    many = torch.ones(8, 3)
    with pytest.raises(ValueError, match=r'"mart" needs a task with one class a row.*multilabel'):
        MART()(step(linear(), many, as_task("multilabel")))
    with pytest.raises(ValueError, match="beta"):
        MART(beta=-1)


def test_a_run_by_its_name_moves_sigma_once_a_step() -> None:
    student = tiny.student()
    history = tiny.finetune(student, objective="mart")
    assert {int(layer.num_batches_tracked) for _, layer in stocnoise.stochastic_layers(student)} == {6}
    assert history[-1].accuracy is not None and history[-1].robust_accuracy is not None
