"""The ATen path alone in pieces and shared out among threads: which it takes depends on the moment, no bit may."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from stocnoise import aten
from stocnoise.activations import Activation, Operation
from stocnoise.normals import drawing, fill_normal
from stocnoise.pieces import ALONE, matrix_of

SHAPES = [
    ((2, 3, 150, 130), 1),  # rows as long as more than half a piece
    ((40, 24, 7, 7), 1),
    ((5, 1, 100, 90), 1),
    ((2, 3, 200, 201), 1),  # rows longer than a piece
    ((3, 50, 17, 19), 1),
    ((300, 197), 1),
    ((9, 11, 13, 64), 3),
    ((8, 5000, 2), 0),
    ((33, 1001, 2), 2),
    ((1, 40_000), 1),
]


@pytest.fixture(params=[1, 2, 5])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@contextmanager
def going(monkeypatch: pytest.MonkeyPatch, alone: bool) -> Iterator[None]:
    @contextmanager
    def way(*_: object) -> Iterator[Callable[[], bool]]:
        yield lambda: alone

    with monkeypatch.context() as patch:
        patch.setattr(aten, "_way", way)
        yield


def inputs(shape: tuple[int, ...], channel_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).add_(0.3).to(dtype)
    return x, torch.rand(shape[channel_dim], generator=generator) + 0.5


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("shape", "channel_dim"), SHAPES)
def test_both_ways_give_the_same_bits(monkeypatch, threads, shape, channel_dim, dtype, activation):
    x, sigma = inputs(shape, channel_dim, dtype)
    gamma, seed = torch.tensor(0.1), torch.tensor(7)
    orders = [x] if x.dim() < 4 else [x, x.to(memory_format=torch.channels_last), x[:, :, ::2].transpose(0, 1)]
    for given in orders:
        dim = channel_dim if given.shape == x.shape else {0: 1, 1: 0}.get(channel_dim, channel_dim)
        operation = Operation(Activation(activation), dim, shared=False)
        found = []
        for alone in (False, True):
            with going(monkeypatch, alone):
                y, moments, scale = aten.forward(given, sigma, gamma, seed, operation, True)
                slopes = (
                    aten.backward(torch.ones_like(given), given, scale, seed, operation) if activation == "gelu" else y
                )
            found.append((y, moments, slopes))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("shape", "channel_dim"), SHAPES)
def test_pieces_cover_all_rows_and_are_small(shape, channel_dim):
    x = inputs(shape, channel_dim, torch.float32)[0]
    matrix = matrix_of(x, channel_dim)
    channel = torch.arange(shape[channel_dim])
    pieces = list(matrix.pieces(True, matrix.of(x), matrix.spread(channel)))
    assert sum(len(piece) for piece, _ in pieces) == matrix.rows
    assert all(piece.numel() <= ALONE for piece, _ in pieces) or matrix.width > ALONE
    view = [-1 if d == channel_dim else 1 for d in range(x.dim())]
    expected = matrix.of(channel.view(view).expand_as(x).contiguous())
    assert torch.equal(torch.cat([numbers.expand_as(piece) for piece, numbers in pieces]), expected)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((7, 90, 31, 33), 1), ((70, 97, 97), 2), ((1, 2, 600, 601), 1), ((1, 3, 750, 751), 1), ((1, 900_000), 1)],
)
def test_noise_is_added_to_every_element_once(monkeypatch, threads, shape, channel_dim, alone):
    """To tensors that are drawn in several parts, which end where no row does."""
    x, sigma = inputs(shape, channel_dim, torch.float32)
    operation = Operation(Activation("relu"), channel_dim, shared=False)
    with going(monkeypatch, alone):
        y, _, scale = aten.forward(x, sigma, torch.tensor(0.1), torch.tensor(7), operation, False)
    noise = fill_normal(torch.empty(x.shape), 7).double()
    scale = scale.double().view([-1 if d == channel_dim else 1 for d in range(x.dim())])
    torch.testing.assert_close(y, (x.double() + scale * noise).relu().float())


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 5])
def test_going_on_alone_in_the_middle_changes_no_bit(monkeypatch, threads, parts):
    """After it has been asked so many times."""
    x, sigma = inputs((7, 90, 101, 103), 1, torch.float32)
    given = x, sigma, torch.tensor(0.1), torch.tensor(7), Operation(Activation("relu"), 1, shared=False), True
    with going(monkeypatch, True):
        expected = aten.forward(*given)
    asked = itertools.count()

    @contextmanager
    def way(*_: object) -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked) >= parts

    monkeypatch.setattr(aten, "_way", way)
    assert all(torch.equal(a, b) for a, b in zip(aten.forward(*given), expected, strict=True))
    assert next(asked) > parts


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "channel_dim"), [*SHAPES, ((7, 90, 31, 33), 1), ((1, 2, 600, 601), 1)])
def test_in_the_inputs_memory_the_same_bits(monkeypatch, threads, shape, channel_dim, dtype, alone):
    x, sigma = inputs(shape, channel_dim, dtype)
    given = sigma, torch.tensor(0.1), torch.tensor(7), Operation(Activation("relu"), channel_dim, shared=False), True
    with going(monkeypatch, alone):
        fresh = aten.perturbed(x.clone(), *given)
        there = aten.perturbed(x, *given, overwrite=True)
    assert there[0] is x and all(torch.equal(a, b) for a, b in zip(there, fresh, strict=True))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("n", [0, 5, (1 << 15) - 1, 1 << 16, (3 << 16) + 5, (90 << 16) + 1])
def test_parts_of_a_drawing_follow_one_another_and_are_what_a_tensor_is_filled_with(threads, n, alone):
    expected, done, parts = fill_normal(torch.empty(n), 3), 0, 0
    for first, normals in drawing(torch.empty(n), 3, lambda: alone):
        assert first == done and torch.equal(normals, expected[first : first + len(normals)])
        done, parts = done + len(normals), parts + 1
    assert done == n and (parts > 1) == (n > 80 << 16)


def test_a_drawing_can_be_used_in_inference_mode_and_after_it():
    with torch.inference_mode():
        first = fill_normal(torch.empty(1 << 16), 3)
    assert torch.equal(fill_normal(torch.empty(1 << 16), 3), first)


def test_threads_draw_in_memory_of_their_own():
    """Eight at once, each with its own seed, against one after the other."""
    seeds = range(8)

    def drawn(seed: int) -> Tensor:
        return torch.stack([fill_normal(torch.empty(3 << 16), seed) for _ in range(5)])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(drawn, seeds))
    assert all(torch.equal(given, drawn(seed)) for seed, given in zip(seeds, found, strict=True))


def test_small_tensors_and_single_threads_are_not_timed():
    x = torch.rand(4, 8, 4, 4)
    with aten._way(x) as alone:
        assert not alone()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with aten._way(torch.rand(1, 2, 300, 300)) as alone:
            assert not alone()
    finally:
        torch.set_num_threads(before)
