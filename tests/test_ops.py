"""The operators and the way around them: the same results, and an operator wherever something looks for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import stocnoise
from stocnoise import functional
from stocnoise.activations import FUSED, Activation, Operation


class Dispatched(TorchDispatchMode):
    """Lists the operators of stocnoise that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "stocnoise":
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def run(layer: stocnoise.StochasticActivation) -> tuple[Tensor, ...]:
    torch.manual_seed(3)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    y = layer(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), dx, layer.sigma.clone(), layer.sigma_before.clone(), layer.num_batches_tracked.clone()


@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.parametrize("slope", [0.2, -0.2])
def test_with_and_without_operators_the_same_bits(name: str, slope: float) -> None:
    results = []
    for mode in (None, Dispatched()):
        layer = stocnoise.StocEMA(8, activation=stocnoise.activations.Activation(name, slope), gamma=0.5)
        layer.sigma.fill_(1.0)
        if mode is None:
            results.append(run(layer))
        else:
            with mode:
                results.append(run(layer))
            assert mode.seen[:2] == ["stoc_act", "update_sigma"]
    for direct, dispatched in zip(*results, strict=True):
        assert torch.equal(direct, dispatched)


def test_a_function_mode_sees_one_operator() -> None:
    """And none of what it is made of: to `convert`, a ReLU inside would be an activation that was left out."""
    layer = stocnoise.StocReLUEMA(8).eval()
    layer.num_batches_tracked.fill_(1)
    with Called() as mode:
        layer(torch.randn(2, 8, 4, 4))
    names = [str(f) for f in mode.seen]
    assert any("stoc_act" in name for name in names)
    assert not any("relu" in name for name in names)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_the_operator() -> None:
    arguments = (torch.ones(8), torch.tensor(0.5), torch.tensor([5]))
    traced = torch.jit.trace(lambda x: functional.stoc_act(x, *arguments), torch.randn(2, 8, 4, 4))
    assert "stocnoise::stoc_act" in str(traced.graph)


def test_an_update_in_place_is_counted() -> None:
    """Else autograd would not notice that a tensor it kept has changed."""
    layer = stocnoise.StocReLUEMA(8)
    versions = [t._version for t in (layer.sigma, layer.sigma_before, layer.num_batches_tracked)]
    layer(torch.randn(2, 8, 4, 4))
    after = [t._version for t in (layer.sigma, layer.sigma_before, layer.num_batches_tracked)]
    assert all(b > a for a, b in zip(versions, after, strict=True))


def test_training_in_inference_mode() -> None:
    with torch.inference_mode():
        layer = stocnoise.StocReLUEMA(8)
        layer(torch.randn(2, 8, 4, 4))
    assert layer.sigma.min() > 0


class Nothing(torch.autograd.Function):
    """Passes no gradient back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
def test_no_gradient_from_above(activation: str) -> None:
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    y = functional.stoc_act(x, torch.ones(8), torch.tensor(0.5), torch.tensor([5]), activation=activation)
    Nothing.apply(y).sum().backward()
    assert x.grad is None


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'elu'.*leaky_relu"):
        functional.stoc_act(torch.zeros(2, 8), torch.ones(8), torch.tensor(0.5), torch.tensor([5]), activation="elu")


def test_an_operation_is_a_value() -> None:
    one, same = (Operation(Activation("leaky_relu", 0.2), 1, False) for _ in range(2))
    assert one == same and len({one, same, Operation(Activation("leaky_relu", 0.3), 1, False)}) == 2
    with pytest.raises(AttributeError):
        one.shared = True  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(FUSED))
def test_a_model_without_memory_runs_forward_and_backward(name: str) -> None:
    layer = stocnoise.StocEMA(8, activation=stocnoise.activations.Activation(name)).to("meta")
    x = torch.empty(2, 8, 4, 4, device="meta", requires_grad=True)
    (dx,) = torch.autograd.grad(layer(x).sum(), x)
    assert dx.is_meta and dx.shape == x.shape


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu"])
def test_what_the_output_decides_has_a_second_derivative(name: str) -> None:
    """Of Σ h(x)³ it is 6·h·h'² where h is piecewise linear; for a penalty on the input's gradient."""
    layer = stocnoise.StocEMA(8, activation=stocnoise.activations.Activation(name), gamma=0.5).eval()
    layer.sigma.fill_(1.0)
    layer.num_batches_tracked.fill_(1)
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = layer(x)
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * y.detach() * slope**2)


@pytest.mark.parametrize("name", ["gelu", "silu", "hardswish"])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x_with_its_noise_is_kept_where_it_is_no_larger_than_x(name: str, gamma: float, dtype: torch.dtype) -> None:
    """One tensor, for a backward pass that draws nothing again; of bfloat16 x itself."""
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        functional.stoc_act(x, torch.ones(8), torch.tensor(gamma), torch.tensor([5]), activation=name)
    (large,) = (t for t in kept if t.numel() == x.numel())
    assert large.dtype == dtype
    assert torch.equal(large, x) == (dtype == torch.bfloat16 or gamma == 0)


@pytest.mark.parametrize("name", ["gelu", "silu", "hardswish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_cpu_what_the_input_decides_has_a_second_derivative(name: str, dtype: torch.dtype) -> None:
    """That of h at x + noise, by differences of the first in float64."""
    given = (torch.ones(8), torch.tensor(0.5), torch.tensor([5]))
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype, requires_grad=True)
    y = functional.stoc_act(x, *given, activation=name)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    with torch.no_grad():
        noisy = functional.stoc_act(x, *given, activation="identity").double()

    def slope(at: Tensor) -> Tensor:
        at = at.requires_grad_()
        return torch.autograd.grad(Activation(name)(at).sum(), at)[0]

    expected = (slope(noisy + 1e-5) - slope(noisy - 1e-5)) / 2e-5
    torch.testing.assert_close(second.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "dtype"), [("gelu", torch.bfloat16), ("gelu_tanh", torch.float32)])
def test_where_noise_is_drawn_again_a_second_derivative_is_refused(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 4, 4).to(dtype).requires_grad_()
    y = functional.stoc_act(x, torch.ones(8), torch.tensor(0.5), torch.tensor([5]), activation=name)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="stoc_act_backward"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning", "ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_without_gradients_the_same_numbers(activation: str) -> None:
    """They take a shorter way, but not inside forward-mode derivatives, which would be lost on it without a word."""
    x, given = torch.randn(2, 8, 4, 4), (torch.ones(8), torch.tensor(0.1), torch.tensor([5]))
    with torch.no_grad():
        found = functional.stoc_act(x, *given, activation=activation)
    assert torch.equal(found, functional.stoc_act(x.clone().requires_grad_(), *given, activation=activation))
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level(), torch.no_grad(), pytest.raises(NotImplementedError, match="forward mode"):
        functional.stoc_act(forward_ad.make_dual(x, torch.ones_like(x)), *given, activation=activation)
