"""Mixed precision: autocast and GradScaler."""

from __future__ import annotations

import pytest
import torch

import stocnoise
from tests.compat.models import images, sigmas, small_student


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_activations_are_low_and_sigma_stays_float32(dtype: torch.dtype) -> None:
    student = small_student(training=True)
    seen = []
    for _, layer in stocnoise.stochastic_layers(student):
        layer.register_forward_hook(lambda layer, args, output: seen.append((args[0].dtype, output.dtype)))
    before = sigmas(student)
    with torch.autocast("cpu", dtype):
        loss = student(images()).float().square().mean()
    loss.backward()
    assert (dtype, dtype) in seen
    assert all(x == y for x, y in seen)
    assert all(s.dtype == torch.float32 for s in sigmas(student))
    assert all(not torch.equal(a, b) for a, b in zip(before, sigmas(student), strict=True))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_a_step_with_grad_scaler_is_the_step_without() -> None:
    weights = []
    for scaled in (False, True):
        student = small_student(gamma=0.0, training=True)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        scaler.scale(student(images()).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append([p.detach().clone() for p in student.parameters()])
    torch.testing.assert_close(weights[0], weights[1])


def test_a_batch_that_overflows_skips_the_step_and_does_not_poison_sigma() -> None:
    student = small_student(training=True)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    scaler.scale(student(images() * float("inf")).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(before[name], p) for name, p in student.named_parameters())
    assert all(s.isfinite().all() for s in sigmas(student))
