"""Where an in-place activation stood, noise is added in its input's memory on a CPU: the same numbers, no harm done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def module(name: str, inplace: bool) -> nn.Module:
    return getattr(nn, name)(inplace=inplace)


class Net(nn.Module):
    """A convolution, batch norm, activation; a shortcut, activation; a layer."""

    def __init__(self, name: str = "ReLU", inplace: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act1, self.act2 = module(name, inplace), module(name, inplace)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm(self.conv(x)))
        x = self.act2(self.third(self.second(x)) + x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """`before` of a convolution's result, then a ReLU in place."""

    def __init__(self, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.before, self.act, self.head = nn.Conv2d(3, 4, 3), before, nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.before(self.conv(x))).mean((2, 3)))


def converted(teacher: nn.Module, **options: object) -> nn.Module:
    student = stocnoise.convert(teacher, X.to(next(teacher.parameters()).dtype), gamma=0.2, **options)
    stocnoise.calibrate(student, [X.to(next(teacher.parameters()).dtype)], batches=1)
    return student


def step(student: nn.Module, x: Tensor) -> list[Tensor]:
    """Everything that a pass gives: output, gradients, statistics."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    student.zero_grad()
    out = student(x)
    out.square().sum().backward()
    layers = stocnoise.stochastic_layers(student)
    return [out, x.grad, *(p.grad for p in student.parameters()), *(layer.sigma.clone() for _, layer in layers)]


@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "LeakyReLU", "SiLU", "Hardswish", "ELU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_same_bits_as_in_fresh_memory(name: str, dtype: torch.dtype, channels_last: bool, training: bool) -> None:
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        student = converted(Net(name, inplace).to(dtype)).train(training)
        x = X.to(dtype)
        if channels_last:
            student, x = student.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        results.append(step(student, x))
    # An ELU in place has another formula for its derivative, PyTorch's.
    far = 1e-2 if name == "ELU" else 0
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=far, atol=far)


def test_noise_is_added_where_the_batch_norm_has_written() -> None:
    student = converted(Net())
    places: list[int] = []
    for name in ("norm", "act1", "act2"):
        student.get_submodule(name).register_forward_hook(lambda *given: places.append(given[-1].data_ptr()))
    student(X)
    assert places[0] == places[1] != places[2]


def test_a_mean_far_from_zero_in_place() -> None:
    """The statistics are then taken about a pivot, of what is not to be overwritten yet."""
    torch.manual_seed(0)
    layer = stocnoise.StocReLUEMA(8, gamma=0.1, alpha=1.0, donated=True)
    with torch.no_grad():
        layer.sigma.fill_(0.5)
    x = nn.BatchNorm2d(8)
    nn.init.constant_(x.bias, 1000.0)
    given = x(torch.randn(64, 8, 20, 20))
    before = given.detach().double()
    y = layer(given)
    assert y.data_ptr() == given.data_ptr()
    torch.testing.assert_close(layer.sigma.double(), before.std((0, 2, 3)), rtol=1e-4, atol=0)
    noise = y.detach().double() - before
    assert abs(noise.std() / (0.1**0.5 * 0.5) - 1) < 0.02 and abs(noise.mean()) < 0.002


@pytest.mark.parametrize(
    "make", [lambda: X.clone(), lambda: X.clone().requires_grad_(), lambda: X + torch.zeros_like(X, requires_grad=True)]
)
def test_what_comes_from_outside_keeps_its_values(make: Callable[[], Tensor]) -> None:
    """Or noise would be added to noise from call to call; the ReLU that stood here changed it once."""
    student = converted(nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.Conv2d(3, 4, 3))).eval()
    x = make()
    for _ in range(2):
        student(x)
    assert torch.equal(x.detach(), X)


@pytest.mark.parametrize("before", [torch.sigmoid, torch.tanh, torch.exp, lambda x: x.square().sqrt(), nn.Softmax(1)])
def test_what_its_maker_needs_keeps_its_values(before: Callable[[Tensor], Tensor]) -> None:
    """Whose backward pass would fail, as the teacher's does."""
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        block = Block(before)
        block.act.inplace = inplace
        results.append(step(converted(block), X))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_input_that_is_read_again_is_overwritten_by_the_result() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y = self.act(x)
            return (x - y).abs().sum((1, 2, 3)) + y.mean((1, 2, 3))

    student = converted(Again())
    ((_, layer),) = stocnoise.stochastic_layers(student)
    assert layer.inplace and not layer.donated
    out = student(X)
    assert (out < 10).all()  # the difference of two tensors that are one
    out.sum().backward()


def test_only_where_every_call_was_in_place_is_the_input_given_away() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y = F.relu(x) + x
            return F.relu(self.norm(y), inplace=True).mean((2, 3))

    student = converted(Twice())
    assert [layer.donated for _, layer in stocnoise.stochastic_layers(student)] == [False, True]


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_derivatives_of_every_kind(gamma: float) -> None:
    """Second derivatives, those of torch.func and recomputation, each as without in-place activations."""
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        student = converted(Net("SiLU", inplace)).eval()
        stocnoise.set_gamma(student, gamma)
        found = []
        with stocnoise.fixed_noise(student, 3):
            x = X.clone().requires_grad_()
            (slope,) = torch.autograd.grad(student(x).square().sum(), x, create_graph=True)
            found += [slope.detach(), *torch.autograd.grad(slope.square().sum(), x)]
            found.append(torch.func.vjp(student, X)[1](torch.ones(4, 3))[0])
            again = X.clone().requires_grad_()
            checkpoint(student, again, use_reentrant=False).square().sum().backward()
            found.append(again.grad)
        results.append(found)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
