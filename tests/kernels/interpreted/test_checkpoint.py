"""Activation checkpointing: gradients and σ of the run without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise
from stocnoise import functional


class Stack(nn.Module):
    """Three convolutions with noise, each block checkpointed or not."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.run = run
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), kind(8, gamma=0.25))
            for kind in (stocnoise.StocReLUEMA, stocnoise.StocGELUEMA, stocnoise.StocSiLUEMA)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.run(block, x)
        return x


def trained(run: Callable[[nn.Module, Tensor], Tensor], compiled: bool = False) -> list[Tensor]:
    """All gradients and σ after three steps in each of which σ moves."""
    model = Stack(run).train()
    step = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    torch.manual_seed(5)
    result = []
    for i in range(3):
        x = (i + 1) * torch.randn(4, 8, 6, 6)
        model.zero_grad()
        step(x.requires_grad_()).square().sum().backward()
        result += [p.grad.clone() for p in model.parameters()] + [x.grad]
        result += [layer.sigma.clone() for _, layer in stocnoise.stochastic_layers(model)]
        result += [layer.num_batches_tracked.clone() for _, layer in stocnoise.stochastic_layers(model)]
    return result


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    return trained(lambda block, x: block(x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(expected: list[Tensor], reentrant: bool) -> None:
    got = trained(lambda block, x: checkpoint(block, x, use_reentrant=reentrant))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Detected that context_fn is passed")
@pytest.mark.parametrize("compiled", [False, True])
def test_keeping_the_activations_changes_nothing(expected: list[Tensor], compiled: bool) -> None:
    torch._dynamo.reset()
    got = trained(
        lambda block, x: checkpoint(block, x, use_reentrant=False, context_fn=functional.checkpoint_contexts), compiled
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["kept", "reentrant", "not reentrant"])
def test_two_forwards_before_a_backward(way: str) -> None:
    """Exact, whether the activations are kept or made again."""
    settings: dict[str, Any] = {
        "kept": {"use_reentrant": False, "context_fn": functional.checkpoint_contexts},
        "reentrant": {"use_reentrant": True},
        "not reentrant": {"use_reentrant": False},
    }[way]

    def gradients(run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
        model = Stack(run).train()
        torch.manual_seed(5)
        x, other = torch.randn(4, 8, 6, 6).requires_grad_(), (3 * torch.randn(4, 8, 6, 6)).requires_grad_()
        (model(x).sum() + model(other).sum()).backward()
        return [p.grad for p in model.parameters()]

    kept = gradients(lambda block, x: checkpoint(block, x, **settings))
    for a, b in zip(kept, gradients(lambda block, x: block(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
