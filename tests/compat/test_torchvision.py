"""Torchvision's models with dictionaries, lists and named tuples for input and output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import stocnoise
from tests.compat.models import sigmas

pytestmark = pytest.mark.slow


def _step(student: nn.Module, loss: Tensor, teacher: nn.Module) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True)]
    assert any(changed)
    assert sum(sigma.gt(0).any().item() for sigma in sigmas(student)) == len(sigmas(student))


@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_segmentation(name: str) -> None:
    options = {"aux_loss": True} if name.startswith("fcn") else {}
    teacher = models.get_model(name, weights=None, weights_backbone=None, num_classes=3, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    student = stocnoise.convert(teacher, x, gamma=0.0)
    with torch.no_grad():
        theirs, ours = teacher(x), student(x)
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    student.train()
    loss = sum(
        nn.functional.cross_entropy(out, torch.zeros(2, 64, 64, dtype=torch.long)) for out in student(x).values()
    )
    _step(student, loss, teacher)


def _targets() -> list[dict[str, Tensor]]:
    return [
        {
            "boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
        }
        for _ in range(2)
    ]


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"])
def test_detection(name: str) -> None:
    teacher = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    ).eval()
    inputs: tuple[Any, ...] = ([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], _targets())
    student = stocnoise.convert(teacher, inputs, gamma=0.0)
    with torch.no_grad():
        theirs, ours = teacher(inputs[0]), student(inputs[0])
    for a, b in zip(theirs, ours, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    student.train()
    losses = student(*inputs)
    assert all(loss.isfinite() for loss in losses.values())
    _step(student, sum(losses.values()), teacher)


def test_googlenet_has_a_named_tuple_in_training() -> None:
    teacher = models.googlenet(weights=None, init_weights=False, num_classes=3)
    student = stocnoise.convert(teacher, torch.zeros(2, 3, 96, 96))
    output = student.train()(torch.randn(2, 3, 96, 96))
    assert type(output).__name__ == "GoogLeNetOutputs"
    _step(student, output.logits.square().mean() + output.aux_logits1.mean() + output.aux_logits2.mean(), teacher)
