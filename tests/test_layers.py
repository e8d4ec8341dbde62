"""The layer: noise, statistics, modes, dtypes, shapes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from stocnoise import StocGELUEMA, StochasticActivation, StocReLUEMA
from stocnoise.activations import FUSED, Activation
from stocnoise.functional import draw_seed, stoc_act, update_sigma

SHAPES = {
    "NCHW": ((4, 6, 5, 7), 1),
    "NC": ((32, 6), 1),
    "NCL": ((4, 6, 9), 1),
    "BNC": ((4, 9, 6), -1),
    "NHWC": ((4, 5, 7, 6), -1),
    "NCDHW": ((2, 6, 3, 4, 5), 1),
}


def filled(num_channels: int, gamma: float = 0.25, **settings: object) -> StocReLUEMA:
    """A layer in eval mode with σ = 1, 2, 3, …"""
    layer = StocReLUEMA(num_channels, gamma=gamma, **settings)  # type: ignore[arg-type]
    layer.sigma.copy_(torch.arange(1, num_channels + 1))
    layer.num_batches_tracked.fill_(1)
    return layer.eval()


def std(x: Tensor, channel_dim: int) -> Tensor:
    dims = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    return x.double().std(dims)


@pytest.mark.parametrize(("shape", "channel_dim"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sigma_is_the_moving_average_of_torch_std(shape: tuple[int, ...], channel_dim: int, dtype: torch.dtype) -> None:
    layer = StocReLUEMA(6, alpha=0.3, channel_dim=channel_dim)
    expected = torch.zeros(6, dtype=torch.float64)
    for _ in range(3):
        x = (torch.randn(shape) * 3 + 1).to(dtype)
        layer(x)
        expected = 0.7 * expected + 0.3 * std(x, channel_dim)
    torch.testing.assert_close(layer.sigma.double(), expected, rtol=2e-6, atol=0)
    assert layer.sigma.dtype == torch.float32
    assert layer.num_batches_tracked == 3


def test_noise_uses_sigma_from_before_the_batch() -> None:
    layer = StocReLUEMA(6, gamma=1.0)
    x = torch.randn(4, 6, 5, 5)
    assert torch.equal(layer(x), x.relu())
    assert not torch.equal(layer(x), x.relu())


def test_noise_has_variance_gamma_sigma_squared_per_channel() -> None:
    layer = filled(4, gamma=0.25)
    x = torch.full((64, 4, 32, 32), 100.0)  # far from zero, so that ReLU is the identity
    noise = layer(x) - x
    torch.testing.assert_close(std(noise, 1), 0.5 * torch.arange(1.0, 5.0).double(), rtol=0.02, atol=0)
    assert (noise.mean((0, 2, 3)).abs() < 0.01 * torch.arange(1, 5)).all()


def test_noise_is_independent_between_elements() -> None:
    layer = filled(2, gamma=1.0)
    noise = layer(torch.full((64, 2, 64, 64), 100.0)) - 100
    for lag_dim in range(4):
        a, b = noise.narrow(lag_dim, 0, noise.shape[lag_dim] - 1), noise.narrow(lag_dim, 1, noise.shape[lag_dim] - 1)
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert correlation.abs() < 0.01


def test_noise_is_on_and_sigma_frozen_in_eval() -> None:
    layer = filled(6)
    x = torch.randn(4, 6, 5, 5)
    before = layer.sigma.clone()
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.sigma, before)
    assert layer.num_batches_tracked == 1


def test_manual_seed_reproduces_the_noise() -> None:
    layer = filled(6)
    x = torch.randn(4, 6, 200, 200)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)


def test_the_noise_does_not_depend_on_the_number_of_threads() -> None:
    x, seed = torch.randn(4, 6, 200, 200), torch.tensor([11])
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(stoc_act(x, torch.ones(6), torch.tensor(1.0), seed))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("activation", sorted(FUSED))
@pytest.mark.parametrize("statistics", [False, True])
def test_the_gradient_is_pathwise(activation: str, statistics: bool) -> None:
    """dy/dx = h'(x + noise), against float64 automatic differentiation with the same noise."""
    x = (torch.randn(8, 6, 5, 5, dtype=torch.float64) * 4).requires_grad_()
    sigma, gamma, seed = torch.arange(1.0, 7.0), torch.tensor(0.3), torch.tensor([3])
    noise = stoc_act(torch.zeros_like(x), sigma, gamma, seed, activation="identity")
    result = stoc_act(x, sigma, gamma, seed, activation=activation, slope=0.2, statistics=statistics)
    y = result[0] if isinstance(result, tuple) else result
    reference = Activation(activation, 0.2)(x + noise)
    torch.testing.assert_close(y, reference)
    weight = torch.randn_like(y)
    if statistics:
        sigma.zero_()  # as update_sigma does between forward and backward
    (got,) = torch.autograd.grad((y * weight).sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad((reference * weight).sum(), x)
    torch.testing.assert_close(got, expected)


def test_sigma_and_gamma_carry_no_gradient() -> None:
    layer = StocReLUEMA(6)
    assert not list(layer.parameters())
    x = torch.randn(4, 6, requires_grad=True)
    layer(x).sum().backward()
    assert not layer.sigma.requires_grad
    assert not layer.gamma.requires_grad


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(8, 6, 16, 16),
        torch.randn(8, 6, 16, 16).to(memory_format=torch.channels_last),
        torch.randn(16, 6, 8, 8).transpose(2, 3),
        torch.randn(8, 12, 16, 16)[:, ::2],
    ],
    ids=["contiguous", "channels_last", "transposed", "sliced"],
)
def test_statistics_survive_a_mean_far_above_the_std(x: Tensor) -> None:
    x = 1000 + 0.01 * x
    layer = StocReLUEMA(6, alpha=1.0)
    layer(x)
    torch.testing.assert_close(layer.sigma.double(), std(x, 1), rtol=1e-5, atol=0)


def test_statistics_of_tokens_survive_a_mean_far_above_the_std() -> None:
    x = 1000 + 0.01 * torch.randn(8, 64, 6)
    layer = StocGELUEMA(6, alpha=1.0, channel_dim=-1)
    layer(x)
    torch.testing.assert_close(layer.sigma.double(), std(x, -1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_is_kept(layout: torch.memory_format) -> None:
    y = filled(6)(torch.randn(4, 6, 5, 7).to(memory_format=layout))
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_channels_with_non_finite_statistics_keep_their_sigma(bad: float) -> None:
    layer = StocReLUEMA(6)
    layer(torch.randn(4, 6, 5, 5))
    before = layer.sigma.clone()
    x = torch.randn(4, 6, 5, 5)
    x[0, 2, 0, 0] = bad
    layer(x)
    assert layer.sigma[2] == before[2]
    assert (layer.sigma != before).sum() == 5
    assert layer.num_batches_tracked == 2
    layer(torch.full_like(x, bad))
    assert layer.num_batches_tracked == 2, "a batch without any finite channel moves nothing, the count included"


@pytest.mark.parametrize("shape", [(0, 6, 5, 5), (0, 6), (1, 6), (1, 6, 1, 1), (4, 6, 0, 5)])
def test_empty_and_single_element_batches_pass_and_move_nothing(shape: tuple[int, ...]) -> None:
    layer = StocReLUEMA(6)
    layer(torch.randn(4, 6, 5, 5))
    before = layer.sigma.clone()
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == shape
    assert torch.equal(layer.sigma, before)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("activation", sorted(FUSED))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_without_noise_it_is_the_activation_bit_for_bit(activation: str, dtype: torch.dtype) -> None:
    h = Activation(activation, 0.2)
    x = (torch.randn(4, 6, 5, 5) * 4).to(dtype)
    for sigma, gamma in ((0.0, 1.0), (1.0, 0.0)):
        y = stoc_act(
            x, torch.full((6,), sigma), torch.tensor(gamma), torch.tensor([1]), activation=activation, slope=0.2
        )
        assert torch.equal(y, h(x))
        assert y.data_ptr() != x.data_ptr()


def test_any_other_activation_stands_after_the_noise() -> None:
    layer = stocnoise.StocEMA(6, activation=nn.ELU(), gamma=1.0)
    layer(torch.randn(4, 6, 5, 5))
    torch.manual_seed(1)
    y = layer(torch.zeros(4, 6, 5, 5))
    layer.activation = nn.Identity()
    layer.sigma.copy_(layer.sigma_before)
    torch.manual_seed(1)
    assert torch.equal(y, nn.functional.elu(layer(torch.zeros(4, 6, 5, 5))))


def test_a_layer_for_no_activation_in_particular_asks_for_one() -> None:
    with pytest.raises(TypeError, match="needs an activation"):
        StochasticActivation(6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"alpha": 1.5}, "alpha"), ({"gamma": -0.1}, "gamma"), ({"gamma": float("nan")}, "gamma")],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StocReLUEMA(6, **settings)  # type: ignore[arg-type]


def test_an_input_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"6 channels along dimension 1.*\(4, 5, 3, 3\)"):
        StocReLUEMA(6)(torch.randn(4, 5, 3, 3))


def test_casting_a_model_leaves_sigma_in_float32() -> None:
    layer = filled(6)
    layer.sigma.add_(1e-4)
    kept = layer.sigma.clone()
    for cast in (layer.half, layer.bfloat16, layer.double):
        cast()
        assert layer.sigma.dtype == layer.gamma.dtype == torch.float32
        assert torch.equal(layer.sigma, kept)
    assert layer(torch.randn(4, 6).half()).dtype == torch.float16


def test_state_loads_strictly_and_a_teachers_state_keeps_sigma() -> None:
    layer, other = filled(6), StocReLUEMA(6)
    assert set(layer.state_dict()) == {"sigma", "gamma", "num_batches_tracked"}
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.sigma, layer.sigma)
    other.load_state_dict(nn.ReLU().state_dict())
    assert torch.equal(other.sigma, layer.sigma)
    with pytest.raises(RuntimeError, match="sigma"):
        other.load_state_dict({"gamma": torch.tensor(1.0)})


def test_copies_and_pickles_are_independent() -> None:
    layer = filled(6)
    for duplicate in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(duplicate.sigma, layer.sigma)
        duplicate.sigma.zero_()
        assert layer.sigma[0] == 1


@pytest.mark.filterwarnings("always")
def test_a_layer_that_has_seen_nothing_says_so_once(recwarn: pytest.WarningsRecorder) -> None:
    layer = StocReLUEMA(6).eval()
    x = torch.randn(4, 6)
    layer(x)
    layer(x)
    assert [w.category for w in recwarn] == [stocnoise.UncalibratedWarning]
    assert "calibrate" in str(recwarn[0].message)


@pytest.mark.parametrize("mean", [0.0, 1.0, 3.9, 4.1, 30.0, 1e3, 1e4])
@pytest.mark.parametrize(
    ("shape", "channel_dim", "layout"),
    [
        ((16, 6, 20, 20), 1, torch.contiguous_format),
        ((16, 6, 20, 20), 1, torch.channels_last),
        ((16, 300, 6), 2, torch.contiguous_format),
        ((1000, 6), 1, torch.contiguous_format),
    ],
)
def test_the_mean_does_not_spoil_the_std(mean, shape, channel_dim, layout) -> None:
    """In float32, of what the float32 input is; one channel is far off and the others are not."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x.select(channel_dim, 2).add_(mean)
    x = x.contiguous(memory_format=layout)
    arguments = torch.zeros(6), torch.tensor(1.0), torch.tensor([1])
    _, moments = stoc_act(x, *arguments, statistics=True, channel_dim=channel_dim)
    sigma, before, batches = torch.zeros(6), torch.zeros(6), torch.tensor(0)
    update_sigma(sigma, before, batches, moments[None], 1.0)
    torch.testing.assert_close(sigma.double(), std(x, channel_dim), rtol=2e-5, atol=0)


def test_moments_of_parts_merge_to_those_of_the_whole() -> None:
    parts = [torch.randn(n, 6) * 3 + 50 for n in (1, 0, 7, 100)]
    arguments = torch.zeros(6), torch.tensor(1.0), torch.tensor([1])
    moments = torch.stack([stoc_act(part, *arguments, statistics=True)[1] for part in parts])
    sigma, before, batches = torch.zeros(6), torch.zeros(6), torch.tensor(0)
    update_sigma(sigma, before, batches, moments, 1.0)
    torch.testing.assert_close(sigma.double(), std(torch.cat(parts), 1), rtol=1e-6, atol=0)


def test_shared_noise_is_the_same_for_every_row_of_any_batch() -> None:
    x, seed = torch.zeros(5, 6, 4, 4), torch.tensor([3])
    y = stoc_act(x, torch.ones(6), torch.tensor(1.0), seed, activation="identity", shared=True)
    assert (y == y[:1]).all()
    assert torch.equal(
        y[:2], stoc_act(x[:2], torch.ones(6), torch.tensor(1.0), seed, activation="identity", shared=True)
    )


def test_draws_never_repeat() -> None:
    seeds = torch.cat([draw_seed("cpu") for _ in range(1000)])
    assert seeds.unique().numel() == 1000
    assert (seeds >= 0).all()
