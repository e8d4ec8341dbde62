"""Models made at random from blocks that apply activations in every way: what holds for one must hold for all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import activation_calls, assert_noisy, assert_same_function, layers

CHANNELS = 3
X = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
MODULES: list[Callable[[], nn.Module]] = [nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.ReLU6, lambda: nn.ReLU(inplace=True)]
FUNCTIONS: list[Callable[..., Tensor]] = [F.relu, torch.relu, F.gelu, F.silu, F.hardswish, F.leaky_relu, F.mish]


class Block(nn.Module):
    """`act` and `function` are its activation, as a module and as a function; `times` is how often a loop runs."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.act = act
        self.function = function
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Repeated(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        return x + self.act(self.conv(y) + 1)


class Functional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) - F.silu(x)


class Attribute(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class Methods(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return y.sub(0.1).relu() + y


class Residual(Block):
    """Reads what an in-place module has overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y) + y


class Loop(Block):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.act(self.conv(x)) + F.gelu(x)
        return x


class Helper(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self._step(self._step(x, 1.0), scale=0.5)

    def _step(self, x: Tensor, scale: float) -> Tensor:
        return F.relu(self.conv(x)) * scale


class Upper(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(super().forward(x) + self.function(x))


class Comprehension(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.act(self.conv(x + n)) for n in range(self.times)]).mean(0)


class Closure(Block):
    def forward(self, x: Tensor) -> Tensor:
        def step(y: Tensor) -> Tensor:
            return self.function(self.conv(y))

        for _ in range(self.times):
            x = step(x)
        return x


class ByMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) if self.training else F.silu(self.conv(x))
        return self.act(x + 0)


class Tokens(Block):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.gelu(tokens).transpose(1, 2).view_as(x)


class Around(nn.Module):
    """A block inside another one, whose activation object it may share."""

    def __init__(self, inside: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.inside(self.act(x * 1)))


KINDS = [Block, Repeated, Functional, Attribute, Methods, Residual, Loop, Helper, Upper, Comprehension, Closure]
KINDS += [ByMode, Tokens]

spec = st.recursive(
    st.tuples(st.sampled_from(KINDS), st.integers(0, len(MODULES)), st.sampled_from(FUNCTIONS), st.integers(1, 3)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3), st.tuples(st.just(Around), st.integers(0, len(MODULES)), inner)
    ),
    max_leaves=5,
)


def build(spec: Any, shared: nn.Module) -> nn.Module:
    """The model that a specification describes; the last number stands for one activation object that is shared."""

    def act(number: int) -> nn.Module:
        return shared if number == len(MODULES) else MODULES[number]()

    if isinstance(spec, list):
        return nn.Sequential(*[build(part, shared) for part in spec], shared)
    if spec[0] is Around:
        return Around(build(spec[2], shared), act(spec[1]))
    kind, number, function, times = spec
    return kind(act(number), function, times)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(spec)
def test_a_random_model(spec: Any) -> None:
    torch.manual_seed(0)
    teacher = build(spec, nn.ReLU())
    found = stocnoise.find_sites(teacher, X)
    by_mode = {mode: activation_calls(teacher, X, training=mode) for mode in (True, False)}
    assert max(by_mode.values()) <= len(found) <= sum(by_mode.values())
    if not any(isinstance(module, ByMode) for module in teacher.modules()):
        assert len(found) == by_mode[True] == by_mode[False]

    student = stocnoise.convert(teacher, X, gamma=0.0)
    assert len(layers(student)) == len(found)
    assert activation_calls(student, X) == by_mode[False] - sum(fused_in_eval(student))
    assert_same_function(teacher, student, X)
    assert_noisy(student, X)

    stocnoise.calibrate(student, [X, X])
    stocnoise.set_gamma(student, 0.1)
    duplicate = copy.deepcopy(student)
    assert all(map(torch.equal, draws(student), draws(duplicate)))
    fresh = stocnoise.convert(teacher, X)
    fresh.load_state_dict(student.state_dict(), strict=True)
    assert all(map(torch.equal, draws(student), draws(fresh)))
    student.load_state_dict(teacher.state_dict(), strict=True)

    back = stocnoise.revert(student)
    assert [type(module) for module in back.modules()] == [type(module) for module in teacher.modules()]
    teacher.load_state_dict(back.state_dict(), strict=True)
    assert torch.equal(back.eval()(X), teacher.eval()(X))
    assert stocnoise.find_sites(back, X) == found


def draws(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    return [copy.deepcopy(model).train(mode)(X) for mode in (True, False)]


def fused_in_eval(student: nn.Module) -> list[bool]:
    """For each call of a layer in eval mode, whether it computes the activation too, by the fused operation."""
    called: list[bool] = []
    student = copy.deepcopy(student).eval()
    for layer in layers(student).values():
        layer.register_forward_hook(lambda layer, args, out: called.append(_fused(layer)))
    with stocnoise.deterministic(student):
        student(X)
    return called


def _fused(layer: stocnoise.StochasticActivation) -> bool:
    return isinstance(layer.activation, stocnoise.activations.Activation) and layer.activation.name != "identity"
