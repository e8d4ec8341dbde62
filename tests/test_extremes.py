"""Long runs and extreme numbers: σ after 100,000 updates, and γ, σ and inputs from nothing to 1e30."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from stocnoise.activations import FUSED
from stocnoise.functional import stoc_act, update_sigma

CHANNELS = 8
UPDATES = 100_000


def batches(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments (count, 3, C) of batches of 100 whose STD wanders over two orders of magnitude; that STD in float64."""
    generator = torch.Generator().manual_seed(0)
    std = torch.exp(torch.randn(count, CHANNELS, generator=generator, dtype=torch.float64))
    m2 = (std.square() * 99).float()
    moments = torch.stack([torch.full_like(m2, 100.0), torch.randn(count, CHANNELS, generator=generator), m2], 1)
    return moments, (m2.double() / 99).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 0.1, 1e-3])
def test_sigma_of_a_hundred_thousand_batches(alpha: float) -> None:
    """Each update rounds σ to float32 once and forgets a share α of earlier errors, so the relative error is at most
    about ε/α with ε = 2⁻²⁴, however long the run.
    """
    moments, std = batches(1_000)
    sigma, before, count = torch.zeros(CHANNELS), torch.zeros(CHANNELS), torch.tensor(0)
    expected = torch.zeros(CHANNELS, dtype=torch.float64)
    errors = {}
    for step in range(1, UPDATES + 1):
        update_sigma(sigma, before, count, moments[step % 1_000, None], alpha)
        expected = (1 - alpha) * expected + alpha * std[step % 1_000]
        if step in (10, 1_000, UPDATES // 10, UPDATES):
            errors[step] = ((sigma.double() - expected).abs() / expected).max().item()
    assert count == UPDATES
    # ... and where σ itself falls, an error of the larger σ before it counts for more.
    assert max(errors.values()) < 8 * 2**-24 / alpha, errors


SIZES = [0.0, 1e-30, 1.0, 1e30]
INPUTS = [0.0, 1e-30, -1e-30, 1.0, -1.0, 1e30, -1e30]
IN_HALF = [0.0, 6e-8, -6e-8, 1.0, -1.0, 6e4, -6e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", sorted(FUSED))
def test_what_is_finite_exactly_is_finite(activation: str, dtype: torch.dtype) -> None:
    """Where √γ·σ is a number of float32, and x with its noise one of x's dtype; no gradient is ever NaN."""
    values = IN_HALF if dtype == torch.float16 else INPUTS
    for sigma, gamma in itertools.product(SIZES, SIZES):
        scale = math.sqrt(gamma) * sigma
        if scale > torch.finfo(torch.float32).max:
            continue
        x = torch.tensor(values, dtype=dtype).repeat(16, 1).requires_grad_()
        channels = len(values)
        y, moments = stoc_act(
            x,
            torch.full((channels,), sigma),
            torch.tensor(gamma),
            torch.tensor([1]),
            activation=activation,
            statistics=True,
        )
        y.sum().backward()
        case = f"sigma={sigma:g}, gamma={gamma:g}"
        assert not y.isnan().any(), case
        assert x.grad is not None and x.grad.isfinite().all(), case
        if max(map(abs, values)) + 7 * scale < torch.finfo(dtype).max:
            assert y.isfinite().all(), case
        new, before, count = torch.full((channels,), sigma), torch.zeros(channels), torch.tensor(0)
        update_sigma(new, before, count, moments[None], 0.5)
        assert new.isfinite().all(), case


@pytest.mark.parametrize("size", [1e-18, 1e-3, 1e3, 1e18])
def test_sigma_of_small_and_large_inputs(size: float) -> None:
    """Σ(x − mean)² is a float32: of inputs from 1e-18 to 1e18 it has all digits."""
    x = size * torch.randn(64, CHANNELS, generator=torch.Generator().manual_seed(0))
    sigma, before, count = torch.zeros(CHANNELS), torch.zeros(CHANNELS), torch.tensor(0)
    _, moments = stoc_act(x, sigma, torch.tensor(0.0), torch.tensor([1]), statistics=True)
    update_sigma(sigma, before, count, moments[None], 1.0)
    torch.testing.assert_close(sigma.double(), x.double().std(0), rtol=1e-5, atol=0)


def test_sigma_stands_still_where_the_sum_of_squares_overflows() -> None:
    x = 1e30 * torch.randn(64, CHANNELS, generator=torch.Generator().manual_seed(0))
    sigma, before, count = torch.ones(CHANNELS), torch.zeros(CHANNELS), torch.tensor(0)
    _, moments = stoc_act(x, sigma, torch.tensor(0.0), torch.tensor([1]), statistics=True)
    update_sigma(sigma, before, count, moments[None], 0.5)
    assert sigma.equal(torch.ones(CHANNELS)) and count == 0
