"""Activations that are written by hand: as modules, and as products in a method."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers, sites

X = torch.randn(8, 6)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * s * (1 + x * (1 - s))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Function.apply(x)


class ParametricSwish(nn.Module):
    """x (σ(βx) − α) / (1 − α), one α and one β."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.sigmoid(self.beta * x) - self.alpha) / (1 - self.alpha)


class TanhGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class ErfGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class Mish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(torch.tanh(F.softplus(x)))


class HardSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(x + 3.0, inplace=True) / 6.0


class HardSwishOfModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.relu6(x + 3.0) / 6.0


class ClampReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


class Snake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 1.5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x)


MODULES = [
    *(Swish, MemoryEfficientSwish, ParametricSwish, TanhGELU, ErfGELU, Mish, HardSwish, HardSwishOfModules),
    *(ClampReLU, Snake, Sine),
]


@pytest.mark.parametrize("act", MODULES)
def test_a_module_written_by_hand_is_one_activation(act: type[nn.Module]) -> None:
    teacher = nn.Sequential(nn.Linear(6, 6), act(), nn.Linear(6, 6), nn.ReLU())
    first, second = sites(teacher, X)
    assert (first.name, first.kind, first.activation, first.channels) == ("1", "module", act.__name__, 6)
    assert first.reason and not second.reason
    student = converted(teacher, X)
    assert len(layers(student)) == 2
    assert "elementwise" in str(stocnoise.summary(student))
    assert stocnoise.summary(student).left == ()


@pytest.mark.parametrize("act", MODULES)
def test_the_noise_is_on_entry(act: type[nn.Module]) -> None:
    """h(x + δ): the module, or its like inside the layer, gets its input with noise, once."""
    student = stocnoise.convert(nn.Sequential(nn.Linear(6, 6), act()), X, gamma=0.25)
    stocnoise.calibrate(student.eval(), [torch.randn(64, 6)])
    ((_, layer),) = layers(student).items()
    function = act()
    x = torch.randn(4, 6)
    torch.manual_seed(1)
    y = student[1](x).detach()
    torch.manual_seed(1)
    noise = stocnoise.functional.stoc_act(
        x, layer.sigma, layer.gamma, stocnoise.functional.draw_seed(x.device), activation="identity", channel_dim=1
    )
    torch.testing.assert_close(y, function(noise).detach())


class Method(nn.Module):
    """Calls `self.act`, a function of h, in its forward; with a gate of something else beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.beta = nn.Parameter(torch.tensor(1.5))

    def excited(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))


class QuickGELU(Method):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(h * torch.sigmoid(1.702 * h))


class LearnedSwish(Method):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(torch.sigmoid(self.beta * h) * h)


class OfMethods(Method):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.excited(x.mul(x.sigmoid()))


class InPlace(Method):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x *= torch.sigmoid(x)
        return self.excited(x)


class InPlaceCall(Method):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.excited(x.mul_(torch.sigmoid(x)))


class Quotient(Method):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(h / (1 + torch.exp(-h)))


class Apart(Method):
    """The gate is computed some statements before."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        inner = math.sqrt(2 / math.pi) * (h + 0.044715 * torch.pow(h, 3))
        other = h.mean((2, 3), keepdim=True)
        gate = 1.0 + torch.tanh(inner)
        return self.excited(0.5 * h * gate) + other


class Residual(Method):
    """h is needed without the noise too."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(h + h * torch.sigmoid(h))


class InlineMish(Method):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(h * torch.tanh(F.softplus(h)))


class InlineHardSwish(Method):
    def __init__(self) -> None:
        super().__init__()
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.excited(h * self.relu6(h + 3) / 6)


class OfAttribute(Method):
    def forward(self, x: Tensor) -> Tensor:
        self.h = self.conv(x)
        return self.excited(self.h * torch.sigmoid(self.h))


def erf_gelu(x: Tensor) -> Tensor:
    gate = 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    return x * gate


class InFunction(Method):
    def forward(self, x: Tensor) -> Tensor:
        return self.excited(erf_gelu(self.conv(x)))


class InLambda(Method):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: x * torch.sigmoid(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.excited(self.act(self.conv(x)))


METHODS = [
    *((QuickGELU, "quick_gelu"), (LearnedSwish, "silu"), (OfMethods, "silu"), (InPlace, "silu")),
    *((InPlaceCall, "silu"), (Quotient, "silu"), (Apart, "gelu_tanh"), (Residual, "silu"), (InlineMish, "mish")),
    *((InlineHardSwish, "hardswish"), (OfAttribute, "silu"), (InFunction, "gelu"), (InLambda, "silu")),
]


@pytest.mark.parametrize(("model", "name"), METHODS)
def test_a_product_with_a_gate_of_itself_is_one_activation(model: type[Method], name: str) -> None:
    x = torch.randn(2, 3, 5, 5)
    teacher = model()
    (site,) = sites(teacher, x)
    assert (site.kind, site.activation, site.channels, site.channel_dim) == ("functional", name, 4, 1)
    student = converted(teacher, x)
    assert list(layers(student)) == [f"{name}_0"]
    left = stocnoise.summary(student).left
    assert any("gate or an output" in item.reason for item in left)  # squeeze and excitation


@pytest.mark.parametrize(("model", "name"), METHODS)
def test_both_uses_see_the_same_noise(model: type[Method], name: str) -> None:
    """The product is h(x + δ): with a large γ its values lie on the graph of h."""
    x = torch.randn(2, 3, 5, 5)
    student = stocnoise.convert(model(), x, gamma=1.0)
    ((_, layer),) = layers(student).items()
    stocnoise.calibrate(student, [x])
    seen: list[Tensor] = []
    outputs: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    student.excited = lambda y: outputs.append(y.clone()) or y  # type: ignore[method-assign, func-returns-value]
    student(x)
    (noisy,), (y,) = seen, outputs
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": lambda h: h * torch.sigmoid((student.beta if model is LearnedSwish else 1) * h),
        "quick_gelu": lambda h: h * torch.sigmoid(1.702 * h),
        "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
        "gelu": F.gelu,
        "mish": F.mish,
        "hardswish": F.hardswish,
    }
    expected = functions[name](noisy)
    if model is Residual:
        expected = expected + student.conv(x)
    torch.testing.assert_close(y, expected)


class Gates(nn.Module):
    """Nothing here is an activation but the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU()
        self.hard, self.norm = HardSigmoid(), Scale()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h * self.hard(self.b(x))
        h = self.norm(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))
        value, gate = h.chunk(2, -1)
        h = torch.cat([value * torch.sigmoid(gate), h[:, :3] * 2], -1)
        return self.act(h * torch.softmax(h, -1))


class HardSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3.0) / 6.0


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def test_gates_of_something_else_stay() -> None:
    student = converted(Gates(), X)
    assert list(layers(student)) == ["act"]
    left = {item.name: item.reason for item in stocnoise.summary(student).left}
    assert "gate" in left["hard"] and "norm" not in left


def test_an_activation_that_was_found_inside_stays_where_it_is() -> None:
    """relu(x) − 1 applies one activation to its input and was always converted in its method."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) - 1

    student = converted(nn.Sequential(nn.Linear(6, 6), Shifted()), X)
    assert list(layers(student)) == ["1.relu_0"]


def test_dropout_at_random_is_no_activation_by_luck() -> None:
    class Drop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x
            return x.div(0.999) * x.new_empty(len(x), 1).bernoulli_(0.999)

    student = stocnoise.convert(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Drop()), X)
    assert list(layers(student)) == ["1"]
