"""Activation checkpointing with several forwards before their backward passes: exact in any order, or an error."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise
from stocnoise.recomputation import KEPT

Order = list[tuple[str, int]]
"""("forward", i) and ("backward", i) of the i-th batch."""


class Blocks(nn.Module):
    """An activation whose derivative its output tells, and one that draws its noise again."""

    def __init__(self, **checkpointing: Any) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), kind(6, gamma=0.5))
            for kind in (stocnoise.StocReLUEMA, stocnoise.StocGELUEMA)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, **self.checkpointing) if self.checkpointing else block(x)
        return x


def trained(model: nn.Module, order: Order) -> list[Tensor]:
    """Gradients, inputs' too, and σ, after forwards and backwards in this order."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    count = 1 + max(i for _, i in order)
    batches = [((i + 1) * torch.randn(5, 6)).requires_grad_() for i in range(count)]
    losses: dict[int, Tensor] = {}
    for what, i in order:
        if what == "forward":
            losses[i] = model(batches[i]).square().sum()
        else:
            losses.pop(i).backward()
    sigmas = [layer.sigma for _, layer in stocnoise.stochastic_layers(model)]
    return [*(p.grad for p in model.parameters()), *(x.grad for x in batches if x.grad is not None), *sigmas]


def all_forwards(count: int, backwards: list[int]) -> Order:
    return [*(("forward", i) for i in range(count)), *(("backward", i) for i in backwards)]


ORDERS: dict[str, Order] = {
    "in turn": [(what, i) for i in range(4) for what in ("forward", "backward")],
    "two, first first": all_forwards(2, [0, 1]),
    "two, last first": all_forwards(2, [1, 0]),
    "sixteen": all_forwards(KEPT, [*range(0, KEPT, 2), *range(1, KEPT, 2)]),
    "one waits": [
        ("forward", 0),
        *((what, i) for i in range(1, 6) for what in ("forward", "backward")),
        ("backward", 0),
    ],
    "one is dropped": all_forwards(3, [0, 2]),
}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_it_changes_nothing(order: str, reentrant: bool) -> None:
    expected = trained(Blocks(), ORDERS[order])
    for a, b in zip(trained(Blocks(use_reentrant=reentrant), ORDERS[order]), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [True, False])
def test_one_loss_of_two_forwards(reentrant: bool) -> None:
    def gradients(model: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        one, other = (k * torch.randn(5, 6).requires_grad_() for k in (1, 3))
        (model(one) * model(other)).sum().backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradients(Blocks(use_reentrant=reentrant)), gradients(Blocks()), strict=True):
        assert torch.equal(a, b)


def test_more_forwards_than_are_known_are_an_error() -> None:
    order = all_forwards(KEPT + 1, [KEPT, 0])
    with pytest.raises(RuntimeError, match=r"more than 16 forwards.*checkpoint_contexts"):
        trained(Blocks(use_reentrant=False), order)


def test_a_random_state_that_is_not_restored_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
        trained(Blocks(use_reentrant=False, preserve_rng_state=False), ORDERS["in turn"])


def test_gamma_may_move_between() -> None:
    """The gradient is that of the forward that was made."""

    def gradient(model: nn.Module) -> list[Tensor]:
        torch.manual_seed(2)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(5, 6, requires_grad=True)
        model(x).sum().backward()
        loss = model(x).square().sum()
        stocnoise.set_gamma(model, 0.0)
        loss.backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradient(Blocks(use_reentrant=False)), gradient(Blocks()), strict=True):
        assert torch.equal(a, b)


def fixed(model: Blocks, order: Order) -> list[Tensor]:
    with stocnoise.fixed_noise(model, 3):
        return trained(model, order)


def test_noise_of_one_seed_is_exact_in_turn_and_else_an_error() -> None:
    for a, b in zip(
        fixed(Blocks(use_reentrant=False), ORDERS["in turn"]), fixed(Blocks(), ORDERS["in turn"]), strict=True
    ):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="under fixed_noise several forwards"):
        fixed(Blocks(use_reentrant=False), ORDERS["two, last first"])


def test_two_backwards_through_one_forward() -> None:
    def gradient(model: nn.Module) -> list[Tensor]:
        torch.manual_seed(4)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(5, 6, requires_grad=True)
        model(x)
        y = model(x)
        y.sum().backward(retain_graph=True)
        y.square().sum().backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradient(Blocks(use_reentrant=False)), gradient(Blocks()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_knows_nothing_of_the_passes(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    layer = stocnoise.StocReLUEMA(6)
    layer(torch.randn(5, 6, requires_grad=True))
    bare = stocnoise.StocReLUEMA(6)
    assert len(pickle.dumps(duplicate(layer))) == len(pickle.dumps(bare))


def test_no_graph_is_kept_alive() -> None:
    layer = stocnoise.StocGELUEMA(6)
    for _ in range(3):
        layer(torch.randn(5, 6, requires_grad=True))
    assert not any(one.scale.requires_grad or one.seed.requires_grad for one in layer.passes._latest)
