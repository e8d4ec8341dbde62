"""The kernels as PyTorch operators: `opcheck`, `torch.compile`, autocast, and what must not compile again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import stocnoise
from stocnoise import functional, ops
from stocnoise.kernels import columns, launch, layout, moments, pointwise, rows


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The cache on disk does not see when the derivative of an operator has changed.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()


def layer_of(
    cls: type[stocnoise.StochasticActivation], channels: int, **options: int
) -> stocnoise.StochasticActivation:
    layer = cls(channels, gamma=0.25, **options)
    layer.sigma.copy_(torch.rand(channels) + 0.5)
    layer.num_batches_tracked.fill_(1)
    return layer


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # in opcheck itself
@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(activation: str, channels_last: bool) -> None:
    x = torch.randn(2, 8, 6, 6)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    rest = (torch.rand(8), torch.tensor(0.3), torch.tensor([5]), activation, 0.1, 1)
    for statistics in (True, False):
        torch.library.opcheck(ops.stoc_act, (x, *rest, statistics, False))
    if activation == "gelu":
        torch.library.opcheck(ops.stoc_act_backward, (torch.randn_like(x), x.detach(), torch.rand(8), *rest[2:], False))
    torch.library.opcheck(
        ops.update_sigma, (torch.rand(8), torch.rand(8), torch.tensor(0), torch.rand(1, 3, 8) + 2, 0.5)
    )


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), layer_of(stocnoise.StocReLUEMA, 8), nn.Conv2d(8, 16, 3), layer_of(stocnoise.StocGELUEMA, 16)
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_is_eager(backend: str, training: bool) -> None:
    """Outputs, gradients and σ, with a whole graph; inductor draws other seeds, so there γ is 0."""
    x = torch.randn(2, 3, 9, 9)
    results = []
    for compiled in (False, True):
        model = network().train(training)
        if backend == "inductor":
            stocnoise.set_gamma(model, 0.0)
        run: Callable[[Tensor], Tensor] = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
        torch.manual_seed(7)
        y = run(x)
        y.square().mean().backward()
        results.append((y, *(p.grad for p in model.parameters()), *(m.sigma for m in (model[1], model[3]))))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_compiled_noise_is_fresh_at_every_call() -> None:
    layer = layer_of(stocnoise.StocReLUEMA, 8).eval()
    run = torch.compile(layer, backend="inductor", fullgraph=True)
    x = torch.full((2, 8, 16, 16), 10.0)
    first, second = run(x) - x, run(x) - x
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.1
    assert abs(first.std() / (0.5 * layer.sigma.square().mean().sqrt()) - 1) < 0.1


def test_nothing_compiles_again_for_gamma_seed_or_batch_size() -> None:
    counter = CompileCounter()
    model = network().train()
    model(torch.randn(2, 3, 9, 9))
    run = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for i, (batch, gamma) in enumerate([(2, 0.1), (3, 0.2), (7, 0.0), (12, 0.2)]):
        stocnoise.set_gamma(model, gamma)
        torch.manual_seed(i)
        run(torch.randn(batch, 3, 9, 9))
    assert counter.frame_count == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(64, 56, 56), (512, 7, 7), (96, 14, 14), (3, 33, 31), (24, 3, 3), (768, 1, 1)])
def test_kernels_do_not_compile_again_for_a_batch_size(shape: tuple[int, int, int], channels_last: bool) -> None:
    """Compile-time constants and the number of warps stay, and no count is specialised on its value."""
    c, h, w = shape

    def constants(batch: int) -> dict[str, object]:
        strides = (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)
        planned = launch.plan((batch, *shape), strides, 1)
        arguments = planned.arguments | planned.forward_arguments
        counts = {"N", "C", "S", "R", "W", "numel", "k_each"}
        constant = {k: v for k, v in arguments.items() if k not in counts}
        # Of walks it matters how long they are and which numbers are 1 or multiples of 16.
        constant["slice"] = layout.walk_of((batch, *shape), (2 * strides[0], *strides[1:]), strides)
        constant["shared"] = layout.walk_of((batch, *shape), layout.strides_in_row((batch, *shape), strides), strides)
        return constant

    assert all(constants(batch) == constants(256) for batch in (8, 16, 24, 120, 256, 1000, 4096))


KERNELS = (
    rows.rows_forward,
    rows.rows_backward,
    columns.columns_forward,
    columns.columns_backward,
    pointwise.pointwise_backward,
    moments.merge_parts,
    moments.move_sigma,
)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fn.__name__)
def test_no_count_is_specialised(kernel: Any) -> None:
    parameters = inspect.signature(kernel.fn).parameters.values()
    runtime = {p.name for p in parameters if not p.name.endswith("_ptr") and "constexpr" not in str(p.annotation)}
    runtime -= {"slope", "alpha", "walk", "grad_walk", "noise_walk"}
    assert runtime <= set(kernel.kwargs["do_not_specialize"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = network().train()
    before = model[1].sigma.clone()
    with torch.autocast("cpu", dtype=dtype):
        y = model(torch.randn(4, 3, 9, 9))
    assert y.dtype == dtype
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model[1].sigma.dtype == torch.float32
    assert not torch.equal(model[1].sigma, before)


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu"])
def test_second_derivatives(activation: str) -> None:
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    y = functional.stoc_act(x, torch.rand(8), torch.tensor(0.1), torch.tensor([3]), activation=activation)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    slope = 0.01 if activation == "leaky_relu" else 0.0
    torch.testing.assert_close(ddx, torch.where((y > 0) & (y < 6), 2.0, 2.0 * slope**2))
