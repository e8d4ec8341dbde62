"""Activation checkpointing: gradients and σ of the run without it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise


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


def test_compiled_checkpointing_changes_nothing(expected: list[Tensor]) -> None:
    torch._dynamo.reset()
    got = trained(lambda block, x: checkpoint(block, x, use_reentrant=False), compiled=True)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
