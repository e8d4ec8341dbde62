"""Moments and σ: accurate where |mean| ≫ std, the same bits every time, and never poisoned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stocnoise import aten, functional, kernels
from stocnoise.kernels import launch


def moments_of(x: Tensor, channel_dim: int = 1) -> Tensor:
    channels = x.shape[channel_dim]
    _, moments = functional.stoc_act(
        x, torch.zeros(channels), torch.tensor(0.0), torch.tensor([1]), channel_dim=channel_dim, statistics=True
    )
    return moments


def new_sigma(moments: Tensor, sigma: Tensor | None = None, alpha: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    sigma = torch.zeros(moments.shape[-1]) if sigma is None else sigma.clone()
    before, batches = torch.full_like(sigma, -1.0), torch.tensor(3)
    functional.update_sigma(sigma, before, batches, moments if moments.dim() == 3 else moments[None], alpha)
    return sigma, before, batches


@pytest.mark.parametrize("shape", [(16, 4, 64, 64), (16, 4, 63, 63), (64, 16, 7, 7), (64, 8, 3, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1000.0, 0.01), (-3.0, 100.0)])
def test_std_within_1e_5(shape: tuple[int, ...], channels_last: bool, mean: float, std: float) -> None:
    x = mean + std * torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    sigma, _, _ = new_sigma(moments_of(x))
    expected = x.double().transpose(0, 1).flatten(1).std(1)
    assert ((sigma - expected).abs() / expected).max() < 1e-5


@pytest.mark.parametrize("channels_last", [False, True])
def test_std_of_long_loops(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 turns of one program's loop, twice what a GPU makes of a tensor that fills it."""
    monkeypatch.setattr(kernels, "INTERPRETED_TILE", 1024)
    monkeypatch.setattr(launch, "FEW_TURNS", 64)
    launch.plan.cache_clear()
    x = 1000 + 0.01 * torch.randn(16, 1, 64, 64).expand(-1, 2, -1, -1).contiguous()
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    sigma, _, _ = new_sigma(moments_of(x))
    launch.plan.cache_clear()
    expected = x.double().transpose(0, 1).flatten(1).std(1)
    assert ((sigma - expected).abs() / expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(9, 5, 7, 9), (11, 18, 6, 6), (13, 24, 5, 5), (7, 3, 16, 24), (37, 65, 3, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("turns", [1, 3])
def test_moments_of_many_programs(
    shape: tuple[int, ...], channels_last: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that take tiles in turns, the last of them a part of one: no element is missed or counted twice."""
    monkeypatch.setattr(kernels, "INTERPRETED_TILE", 512)
    monkeypatch.setattr(launch, "FEW_TURNS", turns)
    launch.plan.cache_clear()
    kernels.forget()
    x = 5 + torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    moments = moments_of(x).reshape(3, -1)
    launch.plan.cache_clear()
    kernels.forget()
    wide = x.double().transpose(0, 1).flatten(1)
    assert (moments[0] == wide.shape[1]).all()
    torch.testing.assert_close(moments[1].double(), wide.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments[2].double(), wide.var(1, correction=0) * wide.shape[1], rtol=1e-5, atol=0)


def test_std_of_a_hundred_million_elements_in_pieces() -> None:
    x = 1000 + 0.01 * torch.randn(1, 1, 1000, 1000)
    pieces = moments_of(x).expand(100, 3, 1).clone()
    shift = torch.arange(100) * 1e-3
    pieces[:, 1, 0] += shift
    sigma, _, _ = new_sigma(pieces)
    wide = x.double().flatten()
    means = pieces[:, 1, 0].double()
    total = 1e8
    expected = (
        (100 * (wide - wide.mean()).square().sum() + 1e6 * (means - means.mean()).square().sum()) / (total - 1)
    ) ** 0.5
    assert abs(sigma.item() - expected) / expected < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    x = (100 + torch.randn(16, 4, 32, 32)).to(dtype)
    sigma, _, _ = new_sigma(moments_of(x))
    expected = x.double().transpose(0, 1).flatten(1).std(1)
    assert ((sigma - expected).abs() / expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(8, 16, 32, 32), (8, 16, 7, 7)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_same_input_same_bits(shape: tuple[int, ...], channels_last: bool) -> None:
    x = torch.randn(shape).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(moments_of(x), moments_of(x.clone()))


def test_update_agrees_with_aten() -> None:
    moments = torch.rand(3, 3, 2100) * torch.tensor([1000.0, 1.0, 10.0])[:, None] + 2
    results = []
    for implementation in (aten, kernels):
        sigma, before, batches = (
            torch.rand(2100, generator=torch.Generator().manual_seed(0)),
            torch.empty(2100),
            torch.tensor(0),
        )
        implementation.update_sigma(sigma, before, batches, moments, 0.3)
        results.append((sigma, before, batches))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_ema_and_what_it_was_before() -> None:
    sigma = torch.tensor([1.0, 2.0])
    moved, before, batches = new_sigma(torch.tensor([[5.0, 5.0], [0.0, 0.0], [4.0, 16.0]]), sigma, alpha=0.25)
    assert torch.allclose(moved, torch.tensor([1.0, 2.0]))  # STD 1 and 2
    assert torch.equal(before, sigma)
    assert batches == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_channel_that_is_not_finite_keeps_its_sigma(bad: float) -> None:
    x = torch.randn(4, 3, 7, 7)
    x[1, 1, 2, 2] = bad
    sigma, _, batches = new_sigma(moments_of(x), torch.tensor([5.0, 5.0, 5.0]))
    assert sigma[1] == 5.0
    assert (sigma[[0, 2]] < 2).all()
    assert batches == 4


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1), (1, 3)])
def test_no_std_no_update(shape: tuple[int, ...]) -> None:
    sigma, before, batches = new_sigma(moments_of(torch.randn(shape)), torch.full((3,), 5.0))
    assert torch.equal(sigma, torch.full((3,), 5.0))
    assert torch.equal(before, sigma)
    assert batches == 3


def test_an_empty_rank_counts_nothing() -> None:
    full, empty = moments_of(torch.randn(4, 3, 4, 4)), moments_of(torch.zeros(0, 3, 4, 4))
    for pair in ((full, empty), (empty, full)):
        assert torch.equal(new_sigma(torch.stack(pair))[0], new_sigma(full)[0])
