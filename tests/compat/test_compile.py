"""torch.compile on a student: one graph, any batch, fresh noise, and γ that may change."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import stocnoise
from tests.compat.models import SITES, Small, images, sigmas, small_student

BACKENDS = [
    "eager",
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_equal_to_eager_at_gamma_zero(backend: str, training: bool) -> None:
    student = small_student(gamma=0.0, training=training)
    twin = small_student(gamma=0.0, training=training)
    compiled = torch.compile(student, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(images()), twin(images()))
    torch.testing.assert_close(sigmas(student), sigmas(twin))


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_is_fresh_at_each_call_and_repeats_with_the_seed(backend: str) -> None:
    compiled = torch.compile(small_student(), backend=backend, fullgraph=True)
    x = images()
    with torch.no_grad():
        assert not torch.equal(compiled(x), compiled(x))
        torch.manual_seed(3)
        first = compiled(x)
        torch.manual_seed(3)
        assert torch.equal(compiled(x), first)


def test_neither_gamma_nor_sigma_nor_the_batch_recompiles() -> None:
    student = small_student()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(student, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        quiet = compiled(images(4))
        frames = counter.frame_count
        for gamma in (0.0, 0.02, 5.0):
            stocnoise.set_gamma(student, gamma)
            loud = compiled(images(4))
        for _, layer in stocnoise.stochastic_layers(student):
            layer.sigma.mul_(2)
        for batch in (2, 7, 12):  # up to 15: beyond, PyTorch itself compiles convolutions on a CPU anew
            assert compiled(images(batch)).shape[0] == batch
    assert counter.frame_count == frames
    assert not torch.equal(quiet, loud)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_training_step_has_the_gradients_of_the_eager_one(backend: str) -> None:
    gradients = []
    for compile_it in (False, True):
        student = small_student(gamma=0.0, training=True)
        model = torch.compile(student, backend=backend, fullgraph=True) if compile_it else student
        model(images()).square().mean().backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_compiled_model_is_unwrapped_before_conversion() -> None:
    student = stocnoise.convert(torch.compile(Small(), backend="eager"), images())
    assert len(list(stocnoise.stochastic_layers(student))) == SITES


@pytest.mark.parametrize("channel_dim", [1, -1])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_function_alone_compiles(activation: str, channel_dim: int) -> None:
    """With the keywords that a user gives it: forward, moments and gradient are the eager ones."""
    x = torch.randn(4, 6, 6, requires_grad=True)
    tensors = (torch.rand(6), torch.tensor(0.3), torch.tensor([5]))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return stocnoise.functional.stoc_act(
            x, *tensors, activation=activation, channel_dim=channel_dim, statistics=True, shared=True
        )

    results = []
    for run in (forward, torch.compile(forward, backend="aot_eager", fullgraph=True)):
        y, moments = run(x)
        results.append((y, moments, *torch.autograd.grad(y.square().sum(), x)))
    for expected, got in zip(*results, strict=True):
        assert torch.equal(got, expected)
