"""Models made at random from blocks that apply activations in every way: what holds for one must hold for all."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, note, seed, settings
from torch import Tensor, nn

import stocnoise
from tests.conversion.random_blocks import CHANNELS, ByMode, Dropped, WrittenOut
from tests.conversion.random_trees import Case, Tree, cases, trees
from tests.conversion_checks import activation_calls, assert_noisy, assert_same_function, layers

X = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(trees(5))
def test_a_random_model(tree: Tree) -> None:
    torch.manual_seed(0)
    teacher = tree.build(nn.ReLU())
    found = stocnoise.find_sites(teacher, X)
    by_mode = {mode: activation_calls(teacher, X, training=mode) for mode in (True, False)}
    written_out = _count(teacher, WrittenOut)
    by_mode = {mode: calls + written_out for mode, calls in by_mode.items()}
    assert max(by_mode.values()) <= len(found) <= sum(by_mode.values())
    if not _count(teacher, ByMode):
        assert len(found) == by_mode[True] == by_mode[False]

    student = stocnoise.convert(teacher, X, gamma=0.0)
    assert len(layers(student)) == len(found)
    assert activation_calls(student, X) == by_mode[False] - sum(fused_in_eval(student)) - written_out
    # A layer draws a seed, and dropout after it another mask than the teacher's.
    with stocnoise.deterministic(student) if _count(teacher, Dropped) else nullcontext():
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


def _count(model: nn.Module, kind: type[nn.Module]) -> int:
    """How often modules of this kind run in one pass."""
    ran: list[nn.Module] = []
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda module, args, output: ran.append(module))
    model(X)
    return len(ran)


FEW = int(os.environ.get("STOCNOISE_TREES", "100"))
MANY = 2_000
SEED = int(os.environ.get("STOCNOISE_SEED", "0"))


@seed(SEED)
@settings(max_examples=FEW, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(cases)
def test_what_holds_for_every_model(case: Case) -> None:
    """STOCNOISE_TREES=20000 for more of them, STOCNOISE_SEED=1 for others."""
    check(case)


@pytest.mark.slow
@seed(SEED + 1)
@settings(max_examples=MANY, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(cases)
def test_what_holds_for_two_thousand_models(case: Case) -> None:
    check(case)


def check(case: Case) -> None:
    """Converted exactly, σ as an EMA in float64 makes it, back to the model, and through a file."""
    note(f"seed {SEED}, {case.dtype}, {case.layout}, training={case.training}, still={case.still}\n{case.source()}")
    teacher, x = case.model(), case.input()
    modes = [module.training for module in teacher.modules()]
    student = stocnoise.convert(teacher, x, gamma=0.1)
    with stocnoise.deterministic(student):
        assert_equal(outputs(student, x), outputs(teacher, x))
    follow_sigma(student, case)

    back = stocnoise.revert(student)
    assert [type(module) for module in back.modules()] == [type(module) for module in teacher.modules()]
    assert [module.training for module in back.modules()] == modes
    assert back.state_dict().keys() == teacher.state_dict().keys()
    back.load_state_dict(teacher.state_dict(), strict=True)
    assert_equal(outputs(back, x), outputs(teacher, x))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        stocnoise.save(student, path)
        loaded = stocnoise.load(path, teacher)
    ours, theirs = loaded.state_dict(), student.state_dict()
    assert ours.keys() == theirs.keys() and all(map(torch.equal, ours.values(), theirs.values()))
    assert_equal(outputs(loaded, x), outputs(student, x))


def follow_sigma(student: nn.Module, case: Case) -> None:
    """Three training passes, held against σ ← (1−α)·σ + α·STD_c in float64 of what each layer is given."""
    expected = {name: torch.zeros(layer.num_channels, dtype=torch.float64) for name, layer in layers(student).items()}
    batches = dict.fromkeys(expected, 0)

    def follow(name: str) -> object:
        def hook(layer: stocnoise.StochasticActivation, args: tuple[Tensor]) -> None:
            if layer.training:
                rows = args[0].detach().double().movedim(layer.channel_dim, 0).flatten(1)
                expected[name] = (1 - layer.alpha) * expected[name] + layer.alpha * rows.std(1)
                batches[name] += 1

        return hook

    handles = [layer.register_forward_pre_hook(follow(name)) for name, layer in layers(student).items()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", stocnoise.UncalibratedWarning)
        for number in range(3):
            student(case.input(number))
    for handle in handles:
        handle.remove()
    for name, layer in layers(student).items():
        assert int(layer.num_batches_tracked) == batches[name]
        torch.testing.assert_close(layer.sigma.double(), expected[name], rtol=1e-4, atol=1e-6)


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """In the mode it is in, and in the other one, with the same random numbers; what passes move is put back."""
    found = []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", stocnoise.UncalibratedWarning)
        for mode in (None, not model.training):
            if mode is not None:
                model.train(mode)
            torch.manual_seed(0)
            found.append(model(x.clone(memory_format=torch.preserve_format)))
    for module, training in modes:
        module.training = training
    model.load_state_dict(before)
    return found


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride()
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
