"""The kernels on a GPU: against the reference and polynomials, launches, graphs, large tensors, compilations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import stocnoise
from stocnoise import functional, ops
from stocnoise.activations import Activation
from tests.kernels.reference import noise_like, normals

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
]

SEED = 0x0123_4567_89AB_CDEF
LAYOUTS = [
    ((8, 64, 56, 56), False),
    ((8, 64, 56, 56), True),
    ((8, 96, 14, 14), False),
    ((8, 96, 14, 14), True),
    ((8, 512, 7, 7), False),
    ((7, 5, 7, 7), False),
    ((8, 18, 9, 9), True),
    ((8, 24, 3, 3), False),
    ((33, 10, 1, 1), False),
]


def normal(shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, device="cuda", dtype=dtype)
    return x.to(memory_format=torch.channels_last) if channels_last else x


def arguments(channels: int, gamma: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.ones(channels, device="cuda"),
        torch.tensor(gamma, device="cuda"),
        torch.tensor([SEED], device="cuda"),
    )


@pytest.mark.parametrize(("shape", "channels_last"), LAYOUTS)
@pytest.mark.parametrize("shared", [False, True])
def test_fast_normals_are_box_muller(shape: tuple[int, ...], channels_last: bool, shared: bool) -> None:
    """lg2.approx is off by 2⁻²² near u = 1, which moves z by at most 6e-4 there; elsewhere errors are near 1e-6."""
    x = normal(shape, channels_last) * 0
    y = functional.stoc_act(x, *arguments(shape[1]), activation="identity", shared=shared).cpu()
    error = (y - noise_like(y, SEED, shared)).abs()
    assert error.max() < 1e-3
    assert error.mean() < 3e-6


@pytest.mark.parametrize(("shape", "channels_last"), LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "hardswish", "relu6", "leaky_relu"])
def test_forward_backward_and_statistics(shape: tuple[int, ...], channels_last: bool, activation: str) -> None:
    x = normal(shape, channels_last).requires_grad_()
    y, moments = functional.stoc_act(x, *arguments(shape[1], 0.25), activation=activation, statistics=True)
    noise = functional.stoc_act(x.detach() * 0, *arguments(shape[1], 0.25), activation="identity")
    u = (x.detach() + noise).double().requires_grad_()
    expected = Activation(activation)(u)
    grad = torch.randn_like(x)
    (dx,) = torch.autograd.grad(y, x, grad)
    (expected_dx,) = torch.autograd.grad(expected, u, grad.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=3e-6)
    kink = torch.zeros_like(u, dtype=torch.bool)
    for at in {"relu6": (0.0, 6.0), "relu": (0.0,), "leaky_relu": (0.0,), "hardswish": (-3.0, 3.0)}.get(activation, ()):
        kink |= (u - at).abs() < 1e-5
    torch.testing.assert_close(dx.double()[~kink], expected_dx[~kink], rtol=1e-5, atol=3e-6)
    wide = x.detach().double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments[1].double(), wide.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments[2].double(), wide.var(1, correction=0) * wide.shape[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_same_input_same_bits(channels_last: bool) -> None:
    x = normal((64, 64, 56, 56), channels_last, torch.bfloat16)
    first, second = (functional.stoc_act(x, *arguments(64), statistics=True) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "slice of channels": lambda x: x[:, 16:48],
    "odd slice of channels": lambda x: x[:, 3:10],
    "every second row": lambda x: x[:, :, ::2],
    "every second column": lambda x: x[..., ::2],
    "crop": lambda x: x[..., 1:-1, 1:-1],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", VIEWS)
def test_strides_change_no_bit_and_nothing_is_copied(name: str, channels_last: bool) -> None:
    """Of the statistics the last: where x is no whole vectors, the threads that add it up lie otherwise."""
    x, grad = (VIEWS[name](normal((32, 64, 28, 28), channels_last)) for _ in range(2))
    results = []
    for leaf in (torch.empty_like(x).copy_(x), x):
        leaf.requires_grad_()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y, moments = functional.stoc_act(leaf, *arguments(x.shape[1]), activation="gelu", statistics=True)
        results.append((y, moments, *torch.autograd.grad(y, leaf, grad)))
        y_and_dx = 2 * y.numel() * y.element_size()
        assert torch.cuda.max_memory_allocated() - before < 1.25 * y_and_dx  # and the parts of the statistics
    (y, moments, dx), (dense_y, dense_moments, dense_dx) = results
    assert torch.equal(y, dense_y)
    assert torch.equal(dx, dense_dx)
    torch.testing.assert_close(moments, dense_moments, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_stream_is_the_same_for_every_tile_and_number_of_warps(
    channels_last: bool, activation: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from stocnoise import kernels

    request.addfinalizer(kernels.forget)
    x = normal((4, 64, 14, 14), channels_last).requires_grad_()
    plan, draws, gradients = kernels.plan, [], []
    for tile in (512, 2048, 4096):
        for warps in (1, 2, 4, 8):

            def planned(*args: Any, tile: int = tile, warps: int = warps, **options: Any) -> Any:
                launch = plan(*args, **{**options, "tile": tile})
                return replace(launch, arguments={**launch.arguments, "num_warps": warps})

            monkeypatch.setattr(kernels, "plan", planned)
            kernels.forget()
            y = functional.stoc_act(x, *arguments(64), activation=activation)
            draws.append(y.detach())
            gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert draws[0].std() > 0
    assert all(torch.equal(draw, draws[0]) for draw in draws)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_each_graph_replay_has_fresh_noise() -> None:
    layer = stocnoise.StocReLUEMA(64).cuda().eval()
    layer.sigma.fill_(1.0)
    layer.num_batches_tracked.fill_(1)
    x = torch.full((4, 64, 14, 14), 10.0, device="cuda")
    layer(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    draws = []
    for _ in range(3):
        graph.replay()
        draws.append((y - x).flatten().clone())
    table = torch.corrcoef(torch.stack(draws))
    assert (table - torch.eye(3, device="cuda")).abs().max() < 0.03


def test_training_under_a_graph_moves_sigma_at_each_replay() -> None:
    layer = stocnoise.StocReLUEMA(64).cuda().train()
    x = 2 * torch.randn(16, 64, 14, 14, device="cuda")
    layer(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer(x)
    before = layer.num_batches_tracked.item()
    for _ in range(20):
        graph.replay()
    assert layer.num_batches_tracked.item() == before + 20
    torch.testing.assert_close(layer.sigma, x.transpose(0, 1).flatten(1).std(1), rtol=1e-4, atol=0)


def test_nothing_compiles_again_for_gamma_seed_or_batch_size() -> None:
    from stocnoise.kernels.columns import columns_forward
    from stocnoise.kernels.moments import merge_parts, move_sigma
    from stocnoise.kernels.pointwise import pointwise_backward
    from stocnoise.kernels.rows import rows_forward

    layer = stocnoise.StocReLUEMA(64).cuda().train()

    def step(batch: int) -> None:
        # Squares, since the gradient of a bare sum is one number in every place, which no kernel of ours reads.
        layer(torch.randn(batch, 64, 14, 14, device="cuda", requires_grad=True)).square().sum().backward()

    def compiled() -> int:
        device = torch.cuda.current_device()
        kernels = (rows_forward, columns_forward, pointwise_backward, merge_parts, move_sigma)
        return sum(len(kernel.device_caches[device][0]) for kernel in kernels)

    step(16)
    count = compiled()
    assert count >= 4
    for batch, gamma in [(8, 0.1), (24, 0.0), (32, 0.5), (16, 1.0)]:
        layer.gamma.fill_(gamma)
        step(batch)
    assert compiled() == count


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_more_than_two_to_the_31_elements(channels_last: bool) -> None:
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free memory")
    from stocnoise import kernels

    shape = (700, 1024, 56, 56)  # 2.2e9 + elements
    x = torch.zeros(shape, device="cuda", dtype=torch.float16)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    y, moments = functional.stoc_act(x, *arguments(1024), activation="identity", statistics=True)
    assert (moments[0] == 700 * 56 * 56).all()
    flat = y.as_strided((y.numel(),), (1,))
    tail = flat[-(2**20) :].float().cpu()
    expected = normals(SEED, np.arange(y.numel() - 2**20, y.numel()))
    assert (tail - torch.from_numpy(expected)).abs().max() < 4e-3  # half precision at |z| < 5.77
    dx = kernels.backward_from_output(y, y, Activation("relu"))
    assert torch.equal(dx.as_strided((y.numel(),), (1,))[-(2**20) :].float().cpu(), tail.relu())


def test_a_tensor_on_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    layer = stocnoise.StocReLUEMA(8).to("cuda:1").train()
    layer(torch.randn(4, 8, 6, 6, device="cuda:1"))
    assert torch.isfinite(layer.sigma).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # in opcheck itself
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_opcheck(activation: str) -> None:
    x = torch.randn(2, 8, 6, 6, device="cuda", requires_grad=True)
    torch.library.opcheck(ops.stoc_act, (x, *arguments(8), activation, 0.1, 1, True, False))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training(backend: str) -> None:
    torch._dynamo.reset()
    layer = stocnoise.StocGELUEMA(8, gamma=0.0).cuda().train()
    x = torch.randn(4, 8, 6, 6, device="cuda", requires_grad=True)
    y = torch.compile(layer, backend=backend, fullgraph=True)(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.gelu(x).sum(), x)
    torch.testing.assert_close(dx, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.sigma, 0.5 * x.detach().transpose(0, 1).flatten(1).std(1), rtol=1e-5, atol=1e-6)
