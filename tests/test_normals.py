"""The normals of the ATen path: their distribution, their independence, their seeds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from stocnoise.normals import _table, fill_normal

N = 1 << 22


@pytest.fixture(scope="module")
def normals() -> Tensor:
    """Four million from the hash, in many rows, float64."""
    return fill_normal(torch.empty(N), seed=7).double()


def test_their_distribution_is_normal(normals: Tensor) -> None:
    """Kolmogorov–Smirnov: √n·D stays below 1.63 with probability .99."""
    cdf = torch.special.ndtr(normals.sort().values)
    steps = torch.arange(N + 1, dtype=torch.float64) / N
    distance = torch.maximum((cdf - steps[:-1]).max(), (steps[1:] - cdf).max())
    assert math.sqrt(N) * distance < 1.63


@pytest.mark.parametrize(("power", "expected", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)])
def test_their_moments_are_those_of_a_normal(normals: Tensor, power: int, expected: float, variance: float) -> None:
    error = (normals**power).mean() - expected
    assert abs(error) < 4 * math.sqrt(variance / N)


@pytest.mark.parametrize("z", [3.0, 4.0])
def test_their_tails_are_those_of_a_normal(normals: Tensor, z: float) -> None:
    p = math.erfc(z / math.sqrt(2))
    assert abs((normals.abs() > z).double().mean() - p) < 4 * math.sqrt(p / N)
    assert normals.abs().max() < 5.8


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 1 << 14, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 1 << 16, 1 << 20])
def test_neither_they_nor_their_squares_are_correlated(normals: Tensor, lag: int) -> None:
    """At lags that a row, or the two halves of one, could betray."""
    a, b = normals[:-lag], normals[lag:]
    assert abs((a * b).mean()) < 4 / math.sqrt(len(a))
    assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 4 * 2 / math.sqrt(len(a))


@pytest.fixture(scope="module")
def eights() -> Tensor:
    """(8, 524288) float64: what each two lookups gave, four neighbours and four half a row later."""
    rows = fill_normal(torch.empty(N), seed=3).double().view(-1, 2, 1 << 13, 4)
    return rows.permute(1, 3, 0, 2).reshape(8, -1)


@pytest.mark.parametrize("two", [*itertools.combinations(range(8), 2)])
def test_two_of_the_normals_of_two_lookups_are_independent(eights: Tensor, two: tuple[int, int]) -> None:
    """χ² in 32 × 32 cells of equal probability."""
    x, y = torch.special.ndtr(eights[list(two)]).mul(32).long()
    counts = torch.bincount(32 * x + y, minlength=1024).double()
    expected = len(x) / 1024
    assert ((counts - expected) ** 2 / expected).sum() < 1023 + 4 * math.sqrt(2 * 1023)


@pytest.mark.parametrize("which", [(0, 1, 2, 3), (0, 1, 2, 4), (0, 1, 4, 5), (0, 3, 5, 6), (1, 2, 4, 7)])
def test_nor_do_products_of_several_betray_them(eights: Tensor, which: tuple[int, ...]) -> None:
    z = eights[list(which)]
    functions = {"z": z, "z² − 1": (z**2 - 1) / math.sqrt(2), "|z|": (z.abs() - math.sqrt(2 / math.pi)) / 0.60281}
    for size in (3, 4):
        for chosen in itertools.product(functions.values(), repeat=size):
            product = torch.stack([values[i] for i, values in enumerate(chosen)]).prod(0)
            # Of 108 such means; each factor has mean 0 and variance 1.
            assert abs(product.mean()) < 4.5 * product.std() / math.sqrt(len(product))


def test_the_table_has_each_level_once_and_coordinates_that_are_hardly_correlated() -> None:
    z = math.sqrt(2) * _table().view(torch.float32).view(-1, 4).double()
    assert all(len(column.unique()) == len(column) for column in z.T)
    for values, most in ((z, 1.5e-4), ((z**2 - 1) / math.sqrt(2), 1.5e-3)):
        assert (values.T @ values / len(z)).tril(-1).abs().max() < most


@pytest.mark.parametrize("other", [8, 7 + (1 << 32), 7 + (1 << 62)])
def test_seeds_that_differ_in_any_word_make_other_normals(normals: Tensor, other: int) -> None:
    b = fill_normal(torch.empty(N), other).double()
    assert abs((normals * b).mean()) < 4 / math.sqrt(N)
    assert abs(((normals**2 - 1) * (b**2 - 1)).mean()) < 4 * 2 / math.sqrt(N)


def test_no_two_of_many_short_streams_are_correlated() -> None:
    """Each seed and row combines the same counters with another key: 64 streams, and all pairs of them at once."""
    n = 1 << 16
    streams = torch.stack([fill_normal(torch.empty(n), seed) for seed in range(64)]).double()
    for values in (streams, (streams**2 - 1) / math.sqrt(2), streams.sign()):
        correlations = (values @ values.T / n).tril(-1)
        assert correlations.abs().max() < 5 / math.sqrt(n)  # of 2016 pairs
        between_halves = values[:, : n // 2] @ values[:, n // 2 :].T / (n // 2)
        assert between_halves.abs().max() < 5.5 / math.sqrt(n // 2)  # of 4096


@pytest.mark.parametrize("n", [0, 1, 7, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, (1 << 18) + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_size_is_filled_and_reproducible(n: int, dtype: torch.dtype) -> None:
    first = fill_normal(torch.full((n,), math.nan, dtype=dtype), 3)
    assert first.isfinite().all()
    assert torch.equal(first, fill_normal(torch.empty(n, dtype=dtype), 3))
    assert n < 1000 or abs(first.double().std() - 1) < 4 / math.sqrt(2 * n)


def test_the_number_of_threads_does_not_change_them() -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3, 4, 5):
            torch.set_num_threads(n)
            found.append(fill_normal(torch.empty((1 << 20) + 5), 3))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(other, found[0])


def test_neither_default_device_nor_dtype_matters() -> None:
    expected = fill_normal(torch.empty(1 << 16), 3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = fill_normal(torch.empty(1 << 16, dtype=torch.float32, device="cpu"), 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
