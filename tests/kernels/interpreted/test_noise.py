"""The noise of the kernels: words, normals, distribution, and that seed and place alone decide it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

import stocnoise
from stocnoise import functional, kernels
from stocnoise.activations import Activation, Operation
from stocnoise.kernels import noise as noise_module
from stocnoise.kernels import philox, rows
from tests.kernels.reference import noise_like, normals, philox_words

SEED = 0x0123_4567_89AB_CDEF


def draw(shape: tuple[int, ...], seed: int = SEED, **layout: torch.memory_format) -> Tensor:
    """The noise that the forward kernel adds to zeros."""
    x = torch.zeros(shape).to(**layout) if layout else torch.zeros(shape)
    sigma = torch.ones(shape[1])
    operation = Operation(Activation("identity"), channel_dim=1, shared=False)
    y, _, _ = kernels.forward(x, sigma, torch.tensor(1.0), torch.tensor([seed]), operation, statistics=False)
    return y


@pytest.fixture(scope="module")
def million() -> Tensor:
    return draw((16, 64, 32, 32)).flatten().double()


@triton.jit
def _store_words(out_ptr, counter_ptr, key, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    w0, w1, w2, w3 = philox.philox_words(key, tl.load(counter_ptr + lane))
    tl.store(out_ptr + lane * 4, w0.to(tl.int64))
    tl.store(out_ptr + lane * 4 + 1, w1.to(tl.int64))
    tl.store(out_ptr + lane * 4 + 2, w2.to(tl.int64))
    tl.store(out_ptr + lane * 4 + 3, w3.to(tl.int64))


COUNTERS = [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 12345, 2**60 - 1]


def test_the_reference_is_philox() -> None:
    """Known answers of Random123's `kat_vectors` for philox4x32, 7 rounds, counter and key zero."""
    words = philox_words(0, np.zeros(1, np.uint64))[0]
    assert [int(w) for w in words] == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


@pytest.mark.parametrize("key", [0, 1, 2**32, SEED, 2**63 - 1])
def test_words_are_philox_bit_for_bit_also_past_32_bits(key: int) -> None:
    counters = torch.tensor(COUNTERS + [3 * i for i in range(6)])
    out = torch.zeros(16, 4, dtype=torch.int64)
    _store_words[(1,)](out, counters, key, BLOCK=16)
    expected = philox_words(key, counters.numpy().astype(np.uint64)).astype(np.int64)
    assert torch.equal(out, torch.from_numpy(expected))


@triton.jit
def _store_noise(out_ptr, piece_ptr, key, BLOCK: tl.constexpr, PIECE: tl.constexpr):
    piece = tl.load(piece_ptr + tl.arange(0, BLOCK))[None, :]
    z = noise_module.noise(key, piece, piece, 0, (), PIECE, False)  # a dense tensor's: index and size are not looked at
    tl.store(out_ptr + tl.arange(0, PIECE * BLOCK)[None, :], z)


@pytest.mark.parametrize("piece", [8, 4])
def test_elements_past_32_bits_have_noise_of_their_own(piece: int) -> None:
    groups = torch.tensor([0, 2**31, 2**32, 2**33] + [2**40 + i for i in range(4)])
    each = 8 // piece
    pieces = (groups[:, None] * each + torch.arange(each)).flatten()
    out = torch.zeros(8, 8)
    _store_noise[(1,)](out, pieces, SEED, BLOCK=8 * each, PIECE=piece)
    index = groups.numpy()[:, None] * 8 + np.arange(8)
    assert np.abs(out.numpy() - normals(SEED, index)).max() < 2e-6
    assert out.flatten().unique().numel() == 64


@triton.jit
def _store_place(out_ptr, n, c, C, S, SHIFTED: tl.constexpr, STEADY: tl.constexpr):
    channels = c + tl.arange(0, 1)
    piece, index, _, _, _, _ = rows._tile(n, 3, channels, C, S, 1, 1, 32, SHIFTED, STEADY, False, 8)
    tl.store(out_ptr + tl.arange(0, 4)[None, :], piece)
    tl.store(out_ptr + 4 + tl.arange(0, 32)[None, :], index)


@pytest.mark.parametrize(("channels", "inner"), [(1024, 3136), (1024, 49), (1023, 49)])
def test_places_of_elements_are_64_bit(channels: int, inner: int) -> None:
    n, c = 5_000_000, 1001
    start = (n * channels + c) * inner // 8
    out = torch.zeros(36, dtype=torch.int64)
    _store_place[(1,)](out, n, c, channels, inner, inner % 8 != 0, channels * inner % 8 == 0)
    assert start * 8 > 2**37
    assert out[:4].tolist() == [start + 3 * 4 + i for i in range(4)]
    assert out[4:].tolist() == [start * 8 + 3 * 32 + i for i in range(32)]


LAYOUTS = {
    "even": ((3, 8, 8, 8), None),
    "7x7": ((3, 16, 7, 7), None),
    "7x7, 5 channels": ((3, 5, 7, 7), None),
    "17x17": ((2, 8, 17, 17), None),
    "3x3": ((5, 24, 3, 3), None),
    "1x1": ((9, 13, 1, 1), None),
    "channels last": ((2, 64, 5, 5), torch.channels_last),
    "channels last, 18": ((3, 18, 5, 5), torch.channels_last),
    "channels last, 3": ((3, 3, 9, 9), torch.channels_last),
    "matrix": ((7, 10), None),
    "one channel": ((3, 1, 9, 9), None),
}


@pytest.mark.parametrize("tile", [512, 2048, 1 << 16])
@pytest.mark.parametrize("name", LAYOUTS)
def test_noise_depends_on_seed_and_place_alone(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element of every layout has the noise of its place in memory: so for all tiles and grids the same, and no
    counter serves two groups."""
    monkeypatch.setattr(kernels, "INTERPRETED_TILE", tile)
    shape, memory_format = LAYOUTS[name]
    y = draw(shape, **({} if memory_format is None else {"memory_format": memory_format}))
    error = (y - noise_like(y, SEED)).abs().max().item()
    assert error < 2e-6  # float32 rounding of |z| < 5.77, against float64 Box–Muller of the same words


def test_normals_are_box_muller_within_1e_6_relative(million: Tensor) -> None:
    expected = torch.from_numpy(normals(SEED, np.arange(million.numel())))
    assert ((million - expected).abs() / expected.abs().clamp(min=1e-2)).max() < 2e-6


def test_kolmogorov_smirnov(million: Tensor) -> None:
    n = million.numel()
    cdf = torch.special.ndtr(million.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((cdf - steps[:-1]).abs().max(), (steps[1:] - cdf).abs().max())
    assert distance < 1.63 / n**0.5  # the 1 % level


def test_four_moments(million: Tensor) -> None:
    n = million.numel()
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((million**power).mean() - expected) < 4 * (variance / n) ** 0.5


@pytest.mark.parametrize("edge", [3.0, 4.0])
def test_tails(million: Tensor, edge: float) -> None:
    p = 2 * torch.special.ndtr(torch.tensor(-edge, dtype=torch.float64)).item()
    for tail in (million > edge, million < -edge):
        expected = million.numel() * p / 2
        assert abs(tail.sum() - expected) < 4 * expected**0.5


def test_the_tail_reaches_as_far_as_stated() -> None:
    """At the smallest u, 2⁻²⁴, the kernel's own arithmetic gives the stated radius."""
    extreme = np.sqrt(48 * np.log(2))
    assert f"{extreme:.3f}" in str(kernels.gaussian.__doc__)

    out = torch.zeros(2, 512)
    _store_box_muller[(1,)](out, torch.arange(512), BLOCK=512)
    assert torch.allclose(out.norm(dim=0), torch.tensor(extreme).float(), rtol=1e-6)
    assert out.max() > 5.767
    assert out.min() < -5.767


@triton.jit
def _store_box_muller(out_ptr, word_ptr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    a, b = kernels.gaussian.box_muller(tl.load(word_ptr + lane).to(tl.uint32), False)
    tl.store(out_ptr + lane, a)
    tl.store(out_ptr + BLOCK + lane, b)


@pytest.mark.parametrize("power", [1, 2])
def test_no_correlation_at_lags_that_a_tiling_could_betray(million: Tensor, power: int) -> None:
    """Lag 4 is the other normal of the same word, 8 the next call, then widths of rows, tiles and channels."""
    z = million**power
    z = (z - z.mean()) / z.std()
    for lag in [1, 2, 3, 4, 5, 7, 8, 9, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 32768, 65536, 131072]:
        n = z.numel() - lag
        assert abs((z[:-lag] * z[lag:]).sum() / n) < 4.5 / n**0.5, lag


@pytest.mark.parametrize("other", [SEED + 1, SEED ^ 1 << 32, SEED ^ 1 << 62, 0])
def test_neighbouring_seeds_share_no_stream(million: Tensor, other: int) -> None:
    z = draw((4, 64, 32, 32), other).flatten().double()
    n = z.numel()
    assert abs((z * million[:n]).mean()) < 4.5 / n**0.5
    assert abs((z[8:] * million[: n - 8]).mean()) < 4.5 / n**0.5


def test_layers_and_steps_draw_seeds_of_their_own() -> None:
    torch.manual_seed(0)
    layers = [stocnoise.StocReLUEMA(8), stocnoise.StocReLUEMA(8)]
    for layer in layers:
        layer.sigma.fill_(1.0)
        layer.train()
    x = torch.full((4, 8, 16, 16), 10.0)
    draws = []
    for _ in range(2):
        for layer in layers:
            draws.append(layer(x).flatten().double())
            layer.sigma.fill_(1.0)
    table = torch.corrcoef(torch.stack(draws))
    assert (table - torch.eye(4)).abs().max() < 4.5 / draws[0].numel() ** 0.5


def test_ranks_seeded_alike_draw_from_ranges_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        seeds.append([functional.draw_seed("cpu").item() for _ in range(50)])
    assert [s * 4 // (2**63 - 1) for rank in seeds for s in rank] == [rank for rank in range(4) for _ in range(50)]


def test_manual_seed_makes_noise_repeat() -> None:
    layer = stocnoise.StocReLUEMA(8)
    layer.sigma.fill_(1.0)
    layer.num_batches_tracked.fill_(1)
    x = torch.randn(2, 8, 5, 5)
    layer.eval()
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (3, 5, 7, 7), (3, 6, 3, 3), (4, 10)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_shared_noise_is_the_same_for_each_row(shape: tuple[int, ...], channels_last: bool) -> None:
    x = torch.zeros(shape)
    if channels_last and x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    operation = Operation(Activation("identity"), channel_dim=1, shared=True)
    arguments = (torch.ones(shape[1]), torch.tensor(1.0), torch.tensor([SEED]), operation)
    y, _, _ = kernels.forward(x, *arguments, statistics=False)
    assert (y - noise_like(y, SEED, shared=True)).abs().max() < 2e-6
    assert all(torch.equal(row, y[0]) for row in y)


def test_shared_noise_where_rows_are_interleaved() -> None:
    x = torch.zeros(6, 4, 8).transpose(0, 1)
    operation = Operation(Activation("identity"), channel_dim=2, shared=True)
    y, _, _ = kernels.forward(x, torch.ones(8), torch.tensor(1.0), torch.tensor([SEED]), operation, statistics=False)
    assert y.std() > 0.5
    assert all(torch.equal(row, y[0]) for row in y)
