"""A student at work: threads, exceptions, checkpointing, torch.compile, the controls."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stocnoise
from tests.conversion_checks import layers

X = torch.randn(2, 4, 6, 6)


class Block(nn.Module):
    """A shared module with different widths, a loop over one call, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 2, 1)
        self.wide = nn.Conv2d(2, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.act(self.wide(self.act(self.narrow(x))) + x)
            if self.fail:
                raise KeyError("in the middle")
        return F.gelu(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(), nn.ReLU(), Block())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def ready(gamma: float = 0.2) -> nn.Module:
    student = stocnoise.convert(Net(), X, gamma=gamma)
    stocnoise.calibrate(student, [X])
    return student.eval()


def test_threads_may_call_one_student_at_once() -> None:
    student = ready(gamma=0.0)
    inputs = [torch.randn(2, 4, 6, 6) for _ in range(8)]
    with torch.no_grad():
        expected = [student(x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                assert all(map(torch.equal, pool.map(_without_gradient(student), inputs), expected))


def _without_gradient(student: nn.Module) -> object:
    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            return student(x)

    return call


def test_an_exception_in_the_middle_of_a_forward_leaves_no_trace() -> None:
    student = ready(gamma=0.0)
    expected = student(X)
    student.body[0].fail = True
    for _ in range(3):
        with pytest.raises(KeyError, match="in the middle"):
            student(X)
    student.body[0].fail = False
    assert torch.equal(student(X), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients_and_moves_sigma_once(reentrant: bool) -> None:
    plain = ready().train()
    saving = copy.deepcopy(plain)
    gradients = []
    for student in (plain, saving):
        torch.manual_seed(1)
        x = X.clone().requires_grad_()
        y = checkpoint(student.body, x, use_reentrant=reentrant) if student is saving else student.body(x)
        y.square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in student.body.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    for (_, a), (_, b) in zip(layers(plain).items(), layers(saving).items(), strict=True):
        assert a.num_batches_tracked == b.num_batches_tracked == 2
        assert torch.equal(a.sigma, b.sigma)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiling_gives_one_graph_and_the_same_function(training: bool) -> None:
    torch._dynamo.reset()
    student = ready(gamma=0.0).train(training)
    compiled = torch.compile(copy.deepcopy(student), fullgraph=True, backend="aot_eager")
    a, b = X.clone().requires_grad_(), X.clone().requires_grad_()
    expected, found = student(a), compiled(b)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    for (_, x), (_, y) in zip(layers(student).items(), layers(compiled).items(), strict=True):
        torch.testing.assert_close(x.sigma, y.sigma)


@pytest.mark.slow
def test_a_compiled_student_is_stochastic_and_follows_gamma() -> None:
    torch._dynamo.reset()
    student = ready()
    compiled = torch.compile(student, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert not torch.equal(compiled(X), compiled(X))
        stocnoise.set_gamma(student, 0.0)
        assert torch.equal(compiled(X), compiled(X))


@pytest.mark.slow
def test_export() -> None:
    student = ready(gamma=0.0)
    program = torch.export.export(student, (X,))
    torch.testing.assert_close(program.module()(X), student(X))


def test_deterministic_is_the_teacher() -> None:
    teacher = Net().eval()
    student = stocnoise.convert(teacher, X, gamma=0.5)
    stocnoise.calibrate(student, [X])
    expected = teacher(X)
    with stocnoise.deterministic(student):
        assert torch.equal(student(X), expected)
    assert not torch.equal(student(X), expected)


def test_set_gamma_reaches_every_layer() -> None:
    student = ready()
    stocnoise.set_gamma(student, 0.125)
    assert {float(layer.gamma) for layer in layers(student).values()} == {0.125}


def test_freeze_sigma() -> None:
    student = ready().train()
    before = {name: layer.sigma.clone() for name, layer in layers(student).items()}
    with stocnoise.freeze_sigma(student):
        assert not torch.equal(student(X), student(X))
    assert all(torch.equal(layer.sigma, before[name]) for name, layer in layers(student).items())
    student(3 * X)
    assert not any(torch.equal(layer.sigma, before[name]) for name, layer in layers(student).items())


def test_calibrate_fills_each_site_with_the_deviation_of_its_input() -> None:
    """γ = 0 while calibrating, so that the inputs of all sites are the teacher's."""
    teacher = Net()
    student = stocnoise.convert(teacher, X, gamma=0.0)
    stocnoise.calibrate(student, [X] * 30, batches=30)
    block = teacher.body[0]
    first = block.narrow(X)
    second = block.wide(first.relu()) + X
    third = block.narrow(second.relu())
    for name, x in (("body.0.act_0", first), ("body.0.act_1", second), ("body.0.act_2", third)):
        expected = x.transpose(0, 1).flatten(1).std(1)
        torch.testing.assert_close(layers(student)[name].sigma, expected, rtol=1e-4, atol=0)


def test_every_call_of_a_shared_module_has_its_own_sigma() -> None:
    student = ready()
    block = {name: layer for name, layer in layers(student).items() if name.startswith("body.0.")}
    assert len(block) == 5
    sigmas = [layer.sigma for layer in block.values()]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(sigmas) for b in sigmas[:i])


def test_fixed_noise_is_one_classifier() -> None:
    student = ready()
    with stocnoise.fixed_noise(student, 7):
        a, b = student(X), student(X)
        rows = torch.cat([student(x[None]) for x in X])
        assert torch.equal(a, b)
        torch.testing.assert_close(a, rows)
    with stocnoise.fixed_noise(student, 8):
        assert not torch.equal(student(X), a)
    with stocnoise.fixed_noise(student, 7):
        assert torch.equal(student(X), a)


def test_the_warning_of_an_uncalibrated_student_comes_once() -> None:
    student = stocnoise.convert(Net(), X).eval()
    with pytest.warns(stocnoise.UncalibratedWarning, match="calibrate") as caught:
        student(X)
        student(X)
    assert len(caught) == 1


def test_a_call_that_fails_and_is_made_again_in_another_way():
    """SpeechBrain's networks try each layer with lengths first."""

    class Trying(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                [nn.Conv1d(3, 8, 3), nn.ReLU(), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 3), nn.GELU()]
            )

        def forward(self, x):
            for block in self.blocks:
                try:
                    x = block(x, lengths=None)
                except TypeError:
                    x = block(x)
            return x

    student = stocnoise.convert(Trying(), torch.rand(2, 3, 16), check=True)
    assert [name for name, _ in stocnoise.stochastic_layers(student)] == ["blocks.1", "blocks.4"]
