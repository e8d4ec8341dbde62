"""A forward of its own inside a backward pass, as the adjoint method of ODE solvers makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import stocnoise


class Anew(torch.autograd.Function):
    """Calls the module again in the backward pass, with noise of its own, instead of keeping what it computed."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found = torch.autograd.grad(ctx.module(x), (x, *ctx.module.parameters()), grads)
        return None, *found


def test_it_has_the_noise_of_now_and_moves_no_sigma() -> None:
    torch.manual_seed(0)
    field = nn.Sequential(nn.Linear(4, 8), stocnoise.StocSiLUEMA(8, gamma=0.5, channel_dim=1), nn.Linear(8, 4))
    x = torch.randn(64, 4)
    field(x)
    layer = field[1]
    for _ in range(3):
        y = Anew.apply(field, x, *field.parameters())
        sigma, batches = layer.sigma.clone(), int(layer.num_batches_tracked)
        y.square().mean().backward()
        assert torch.equal(layer.sigma, sigma)
        assert int(layer.num_batches_tracked) == batches
        gradients = [p.grad for p in field.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)
