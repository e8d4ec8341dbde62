"""The forward and backward kernels against float64 with the same noise, over layouts, dtypes and strides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from stocnoise import aten, functional, kernels
from stocnoise.activations import FUSED, Activation
from stocnoise.kernels.walk import place_of_elements
from tests.kernels.reference import noise_like

SEED = 0x0123_4567_89AB_CDEF
GAMMA = 0.25


def arguments(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sigma = torch.rand(channels, generator=generator) + 0.5
    return sigma, torch.tensor(GAMMA), torch.tensor([SEED])


def along(v: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    return v.view([-1 if d == channel_dim else 1 for d in range(x.dim())])


def noisy(x: Tensor, y: Tensor, channel_dim: int, shared: bool = False) -> Tensor:
    """x + noise in float64, the noise by places in y's memory."""
    sigma, _, _ = arguments(x.shape[channel_dim])
    scale = along(sigma.double() * GAMMA**0.5, x, channel_dim)
    return x.double() + scale * noise_like(y, SEED, shared)


def check(
    x: Tensor, channel_dim: int, activation: str = "silu", slope: float = 0.1, grad: Tensor | None = None
) -> None:
    """Forward and backward on x, as a user would call them, against float64."""
    before = x.clone()
    leaf = x.detach().requires_grad_()
    y, moments = functional.stoc_act(
        leaf, *arguments(x.shape[channel_dim]), activation=activation, slope=slope, channel_dim=channel_dim,
        statistics=True,
    )  # fmt: skip
    u = noisy(x, y, channel_dim).requires_grad_()
    h = Activation(activation, slope)
    expected = h(u)
    grad = torch.randn(x.shape).to(x.dtype) if grad is None else grad
    (dx,) = torch.autograd.grad(y, leaf, grad)
    # Where y decides the derivative, it is the derivative at the rounded y.
    at = y.detach().double().requires_grad_() if h.output_decides else u
    (expected_dx,) = torch.autograd.grad(h(at), at, grad.double())

    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[x.dtype]
    assert y.dtype == dx.dtype == x.dtype
    assert y.stride() == torch.empty_like(x).stride()
    assert dx.stride() in (y.stride(), grad.stride())
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    # At a kink of h′ rounding may take the other side.
    kink = torch.zeros_like(u, dtype=torch.bool)
    for place in {"leaky_relu": (0.0,), "hardswish": (-3.0, 3.0)}.get(activation, ()):
        kink |= (u - place).abs() < 1e-5
    assert kink.double().mean() < 0.01
    torch.testing.assert_close(dx.double()[~kink], expected_dx[~kink], rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)

    others = [d for d in range(x.dim()) if d != channel_dim]
    wide = x.double()
    mean = wide.mean(others) if others else wide
    m2 = (wide - along(mean, x, channel_dim)).square()
    m2 = m2.sum(others) if others else m2
    assert (moments[0] == x.numel() // x.shape[channel_dim]).all()
    torch.testing.assert_close(moments[1].double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments[2].double(), m2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", sorted(FUSED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_activation_and_dtype(activation: str, dtype: torch.dtype, channels_last: bool) -> None:
    x = (3 * torch.randn(2, 16, 6, 8)).to(dtype)
    check(x.to(memory_format=torch.channels_last) if channels_last else x, 1, activation)


@pytest.mark.parametrize("channels_last", [False, True])
def test_leaky_relu_of_a_negative_slope(channels_last: bool) -> None:
    """There y does not tell the sign of u: the noise is drawn again."""
    x = torch.randn(2, 16, 6, 8)
    check(x.to(memory_format=torch.channels_last) if channels_last else x, 1, "leaky_relu", slope=-0.3)


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu"])
@pytest.mark.parametrize("shape", [(2, 8, 6, 6), (3, 5, 7, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_read_off_the_output(activation: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The bits of ATen's, for gradients of any strides, at kinks and infinities."""
    h = Activation(activation, 0.25)
    y = h(4 * torch.randn(shape)).to(dtype)
    y.view(-1)[:4] = torch.tensor([0.0, -0.0, 6.0, float("inf")])
    wide = torch.randn(shape[0], shape[1] + 8, *shape[2:]).to(dtype)
    for grad in (
        wide[:, :-8].contiguous(),
        wide[:, 8:],
        wide[:, :-8].to(memory_format=torch.channels_last),
        torch.tensor(2.0, dtype=dtype).expand(shape),
    ):
        dx = kernels.backward_from_output(grad, y, h)
        assert torch.equal(dx, aten.backward_from_output(grad, y, h))


def saved_bytes(activation: str, slope: float = 0.25) -> int:
    """What a stochastic activation keeps for its backward pass beside the output that it hands on."""
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = functional.stoc_act(x, *arguments(8), activation=activation, slope=slope)
    kept.pop(y.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def test_what_a_backward_pass_keeps() -> None:
    assert saved_bytes("relu") == saved_bytes("relu6") == saved_bytes("leaky_relu") == saved_bytes("identity") == 0
    # x, which the layer before may have kept already, √γ·σ and the seed.
    assert saved_bytes("gelu") == saved_bytes("leaky_relu", -1.0) == 4 * 2 * 8 * 36 + 4 * 8 + 8


SHAPES = [
    ((2, 8, 8, 8), 1),  # whole groups
    ((3, 16, 7, 7), 1),  # rows that begin within a group, the same in every block
    ((3, 5, 7, 7), 1),  # another in every block, and a last group that is not whole
    ((2, 8, 17, 17), 1),
    ((1, 3, 31, 33), 1),
    ((3, 4, 5, 6, 7), 1),
    ((5, 24, 3, 3), 1),  # rows too short: columns
    ((5, 7, 2, 1), 1),
    ((2, 33, 48), 2),  # tokens
    ((2, 33, 10), -1 % 3),
    ((2, 33, 48), 0),
    ((6, 10), 1),
    ((1, 7), 1),
    ((40,), 0),
    ((3, 1, 9, 9), 1),
]


@pytest.mark.parametrize("tile", [512, 2048, 1 << 16])
@pytest.mark.parametrize(("shape", "channel_dim"), SHAPES)
def test_shapes(shape: tuple[int, ...], channel_dim: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "INTERPRETED_TILE", tile)
    check(torch.randn(shape) + 1, channel_dim)


@pytest.mark.parametrize("channels", [3, 8, 18, 64, 96, 200, 520])
def test_channels_last(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "INTERPRETED_TILE", 2048)
    check(torch.randn(3, channels, 5, 7).to(memory_format=torch.channels_last), 1)


STRIDED: dict[str, Callable[[], tuple[Tensor, int]]] = {
    "slice of channels": lambda: (torch.randn(3, 32, 8, 8)[:, 8:24], 1),
    "slice of channels, 7x7": lambda: (torch.randn(3, 32, 7, 7)[:, 8:24], 1),
    "odd slice of channels, 7x7": lambda: (torch.randn(3, 32, 7, 7)[:, 3:10], 1),
    "slice of channels, channels last": lambda: (
        torch.randn(3, 64, 6, 6).to(memory_format=torch.channels_last)[:, 8:24],
        1,
    ),
    "slice of tokens": lambda: (torch.randn(3, 20, 16)[:, 1:], 2),
    "half of the features": lambda: (torch.randn(3, 20, 32).chunk(2, -1)[1], 2),
    "half of odd features": lambda: (torch.randn(3, 20, 10).chunk(2, -1)[1], 2),
    "every second batch": lambda: (torch.randn(6, 8, 8, 8)[::2], 1),
    "every second row": lambda: (torch.randn(2, 8, 8, 8)[:, :, ::2], 1),
    "every second column": lambda: (torch.randn(2, 8, 8, 8)[..., ::2], 1),
    "transposed": lambda: (torch.randn(2, 8, 6, 10).transpose(2, 3), 1),
    "channels innermost by transposition": lambda: (torch.randn(2, 30, 16).transpose(1, 2), 1),
    "batch and channels transposed": lambda: (torch.randn(8, 4, 5, 5).transpose(0, 1), 1),
    "expanded batch": lambda: (torch.randn(1, 8, 6, 6).expand(3, -1, -1, -1), 1),
    "expanded channels": lambda: (torch.randn(2, 1, 6, 6).expand(-1, 8, -1, -1), 1),
    "crop": lambda: (torch.randn(2, 8, 9, 9)[..., 1:-1, 2:], 1),
    "crop, channels last": lambda: (torch.randn(2, 16, 9, 9).to(memory_format=torch.channels_last)[..., 1:-1, 2:], 1),
    "eight features of sixteen": lambda: (torch.randn(3, 20, 16)[..., 8:], 2),
    "a single value": lambda: (torch.randn(()).expand(2, 8, 5, 5), 1),
    "storage that does not begin at a vector": lambda: (torch.randn(2 * 8 * 64 + 3)[3:].view(2, 8, 8, 8), 1),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strides(name: str) -> None:
    check(*STRIDED[name]())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", STRIDED)
def test_what_is_read_where_it_lies(
    name: str, activation: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The kernels get x and the gradient themselves, not copies."""
    kernels.forget()
    request.addfinalizer(kernels.forget)
    got = []
    for kernel_name in ("rows_forward", "rows_backward", "columns_forward", "columns_backward", "pointwise_backward"):
        kernel = getattr(kernels, kernel_name)

        class Spy:
            arg_names = kernel.arg_names

            def __getitem__(self, grid: tuple[int, ...], kernel: Any = kernel) -> Callable[..., Any]:
                def launch(*args: Any, **options: Any) -> None:
                    inputs = kernel.arg_names.index("dx_ptr") if "dx_ptr" in kernel.arg_names else 1
                    got.extend(tensor.data_ptr() for tensor in args[:inputs])
                    kernel[grid](*args, **options)

                return launch

        monkeypatch.setattr(kernels, kernel_name, Spy())
    (x, channel_dim), (grad, _) = STRIDED[name](), STRIDED[name]()
    options: dict[str, Any] = {"activation": activation, "channel_dim": channel_dim}
    leaf = x.detach().requires_grad_()
    sigma, gamma, seed = arguments(x.shape[channel_dim])
    functional.stoc_act(x, sigma, gamma, seed, **options)
    y, _ = functional.stoc_act(leaf, sigma, gamma, seed, statistics=True, **options)
    torch.autograd.grad(y, leaf, grad)
    pointers = [x.data_ptr(), x.data_ptr()]
    if activation == "gelu":
        pointers += [grad.data_ptr(), x.data_ptr()]
    elif grad.stride() == y.stride():
        pointers += [grad.data_ptr(), y.data_ptr()]  # otherwise ATen, which reads any strides
    assert got == pointers


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", STRIDED)
def test_gradients_of_the_same_strides(name: str, activation: str) -> None:
    x, channel_dim = STRIDED[name]()
    check(x, channel_dim, activation, grad=STRIDED[name]()[0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", STRIDED)
def test_strides_change_no_bit(name: str, shared: bool) -> None:
    """Of y, the statistics and the gradient, beside those of a dense copy in the same order."""
    x, channel_dim = STRIDED[name]()
    grad, _ = STRIDED[name]()
    results = []
    for leaf in (x.detach(), torch.empty_like(x).copy_(x)):
        leaf.requires_grad_()
        y, moments = functional.stoc_act(
            leaf, *arguments(x.shape[channel_dim]), activation="gelu", channel_dim=channel_dim, statistics=True,
            shared=shared,
        )  # fmt: skip
        results.append((y, moments, *torch.autograd.grad(y, leaf, grad)))
    assert all(torch.equal(strided, dense) for strided, dense in zip(*results, strict=True))


def a_view(generator: random.Random) -> Tensor:
    """A tensor of up to five dimensions, of which some are permuted, sliced, strided or expanded."""
    shape = [generator.choice([1, 2, 3, 4, 8, 12, 16]) for _ in range(generator.randint(1, 5))]
    expanded = [d for d in range(len(shape)) if generator.random() < 0.15]
    step = [generator.choice([1, 1, 1, 2, 3]) for _ in shape]
    extra = [generator.choice([0, 0, 1, 8]) for _ in shape]
    order = generator.sample(range(len(shape)), len(shape))
    whole = [1 if d in expanded else n * k + e for d, (n, k, e) in enumerate(zip(shape, step, extra, strict=True))]
    x = torch.randn([whole[d] for d in order]).permute([order.index(d) for d in range(len(shape))])
    for d, (n, k) in enumerate(zip(shape, step, strict=True)):
        if d not in expanded:
            x = x.narrow(d, whole[d] - n * k, n * k)
            x = x[(slice(None),) * d + (slice(None, None, k),)]
    return x.expand(shape)


def test_without_noise_the_identity_gives_back_any_view() -> None:
    generator = random.Random(1)
    torch.manual_seed(1)
    for _ in range(40):
        x = a_view(generator)
        channel_dim = generator.randrange(x.dim())
        sigma, gamma, seed = arguments(x.shape[channel_dim])
        y = functional.stoc_act(x, sigma, 0 * gamma, seed, activation="identity", channel_dim=channel_dim)
        assert torch.equal(y, x)


@triton.jit
def _store_places(out_ptr, index_ptr, numel, walk, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out_ptr + lane, place_of_elements(tl.load(index_ptr + lane), numel, walk))


@pytest.mark.parametrize("numel", [2**31 - 8, 2**34])
@pytest.mark.parametrize(
    "walk",
    [(tl.constexpr(1), 3, 1000, 7, 10**6, -(10**6)), (tl.constexpr(8), 1, 11, 2**33, 2**20, -1)],
)
def test_places_far_into_memory(walk: tuple[Any, ...], numel: int) -> None:
    index = torch.tensor([0, 7, 8, 87, 88, 999, 1000, 2**23, 2**24 + 5, 10**9, 2**31 - 9, numel - 1])
    index = torch.cat([index, torch.arange(4)])
    out = torch.zeros(16, dtype=torch.int64)
    _store_places[(1,)](out, index, numel, walk, BLOCK=16)
    unit, step, *skips = walk
    piece = index // unit.value
    place = piece * step + sum(piece // skips[i] * skips[i + 1] for i in (0, 2))
    assert torch.equal(out, place * unit.value + index % unit.value)


def test_gradient_in_another_layout() -> None:
    """A gradient that is expanded, sliced or in another memory format than x."""
    for x in (torch.randn(2, 16, 6, 6), torch.randn(2, 16, 6, 6).to(memory_format=torch.channels_last)):
        for grad in (
            torch.randn(2, 16, 6, 6),
            torch.randn(2, 16, 6, 6).to(memory_format=torch.channels_last),
            torch.tensor(2.0).expand(2, 16, 6, 6),
            torch.randn(2, 32, 6, 6)[:, 8:24],
            torch.randn(2, 16, 12, 6)[:, :, ::2],
        ):
            leaf = x.detach().requires_grad_()
            y = functional.stoc_act(leaf, *arguments(16), activation="silu")
            u = noisy(x, y, 1).requires_grad_()
            (dx,) = torch.autograd.grad(y, leaf, grad)
            (expected,) = torch.autograd.grad(torch.nn.functional.silu(u), u, grad.double())
            torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-5)


def test_x_and_gradient_of_different_strides() -> None:
    x = torch.randn(2, 16, 12, 6)[:, :, ::2].requires_grad_()
    y = functional.stoc_act(x, *arguments(16), activation="silu")
    u = noisy(x.detach(), y, 1).requires_grad_()
    grad = torch.tensor(2.0).expand(2, 16, 6, 6)
    (dx,) = torch.autograd.grad(y, x, grad)
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(u), u, grad.double())
    torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 4, 4), (3, 5, 7, 7)])
def test_backward_of_shared_noise(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    y = functional.stoc_act(x, *arguments(shape[1]), activation="gelu", shared=True)
    u = noisy(x.detach(), y, 1, shared=True).requires_grad_()
    expected = torch.nn.functional.gelu(u)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    expected.sum().backward()
    y.sum().backward()
    torch.testing.assert_close(x.grad.double(), u.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (2, 3, 0, 1), (3, 1, 0, 2)])
def test_shared_noise_where_rows_are_interleaved(order: tuple[int, ...]) -> None:
    """Each row's noise is the one that it has alone, in the backward pass too."""
    dense = torch.randn([(3, 8, 6, 4)[d] for d in order])
    x = dense.permute([order.index(d) for d in range(4)]).requires_grad_()
    y = functional.stoc_act(x, *arguments(8), activation="silu", shared=True)
    (dx,) = torch.autograd.grad(y.sum(), x)
    for i in range(3):
        row = x.detach()[i : i + 1].requires_grad_()
        alone = functional.stoc_act(row, *arguments(8), activation="silu", shared=True)
        (d_row,) = torch.autograd.grad(alone.sum(), row)
        torch.testing.assert_close(y[i : i + 1], alone)
        torch.testing.assert_close(dx[i : i + 1], d_row)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4), (0, 8)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    y, moments = functional.stoc_act(x, *arguments(8), activation="gelu", statistics=True)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert torch.equal(moments, torch.zeros(3, 8))


def test_without_noise_relu_is_relu() -> None:
    x = torch.randn(2, 8, 7, 7)
    x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    sigma, gamma, seed = arguments(8)
    assert torch.equal(functional.stoc_act(x, sigma, gamma * 0, seed).nan_to_num(7), x.relu().nan_to_num(7))


def test_float64_is_served_by_aten() -> None:
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    assert functional.stoc_act(x, *arguments(8)).dtype == torch.float64
