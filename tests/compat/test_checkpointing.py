"""Activation checkpointing: σ and gradients are those of training without it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import stocnoise
from tests.compat.models import sigmas


def _train(name: str, size: tuple[int, ...], checkpointing: bool, steps: int = 3) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    student = stocnoise.convert(timm.create_model(name, num_classes=4), torch.zeros(2, *size), gamma=0.1)
    student.set_grad_checkpointing(checkpointing)
    student.train()
    x = torch.randn(4, *size)
    for _ in range(steps):
        student.zero_grad()
        student(x).square().mean().backward()
    return student, [p.grad for p in student.parameters() if p.grad is not None]


@pytest.mark.parametrize(("name", "size"), [("resnet10t", (3, 32, 32)), ("convnext_atto", (3, 32, 32))])
def test_sigma_and_gradients_equal_those_without_checkpointing(name: str, size: tuple[int, ...]) -> None:
    plain, gradients = _train(name, size, checkpointing=False)
    checkpointed, theirs = _train(name, size, checkpointing=True)
    assert all(torch.equal(a, b) for a, b in zip(sigmas(plain), sigmas(checkpointed), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients, theirs, strict=True))
    batches = {int(layer.num_batches_tracked) for _, layer in stocnoise.stochastic_layers(checkpointed)}
    assert batches == {3}


def test_an_attack_through_checkpoints_leaves_sigma_as_it_was() -> None:
    student, _ = _train("resnet10t", (3, 32, 32), checkpointing=True)
    student.eval()
    before = sigmas(student)
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(student(x).square().mean(), x)
    assert gradient.abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, sigmas(student), strict=True))
