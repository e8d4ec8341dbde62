"""What every test of the conversion asks of a student."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import stocnoise

NAMES = [
    "relu",
    "relu6",
    "leaky_relu",
    "gelu",
    "silu",
    "hardswish",
    "elu",
    "selu",
    "celu",
    "prelu",
    "rrelu",
    "mish",
    "softplus",
    "softsign",
    "hardtanh",
]
FUNCTIONS = {
    found
    for name in NAMES
    for place in (torch, F, Tensor, torch._C._nn)
    for found in (getattr(place, name, None), getattr(place, name + "_", None))
    if found is not None
}


class Counter(TorchFunctionMode):
    """Counts calls of activation functions, knowing nothing of modules or of the conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in FUNCTIONS
        return func(*args, **(kwargs or {}))


def activation_calls(model: nn.Module, *args: Any, training: bool = False) -> int:
    duplicate = copy.deepcopy(model).train(training)
    with torch.no_grad(), Counter() as counter:
        duplicate(*args)
    return counter.calls


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def run(model: nn.Module, *args: Any, training: bool = False) -> list[Tensor]:
    """Outputs of a pass, then the gradients of inputs and parameters, then the buffers that are not the noise's."""
    model = copy.deepcopy(model).train(training)
    inputs = [a.detach().clone().requires_grad_(a.is_floating_point()) for a in args]
    torch.manual_seed(0)
    outputs = tensors(model(*inputs))
    floating = [y for y in outputs if y.requires_grad]
    model.requires_grad_()
    if floating:
        sum((y * torch.linspace(-1, 1, y.numel()).view_as(y).to(y)).sum() for y in floating).backward()  # type: ignore
    gradients = [leaf.grad for leaf in (*inputs, *model.parameters())]
    buffers = {
        id(buffer): buffer
        for module in model.modules()
        if not isinstance(module, stocnoise.StochasticActivation)
        for buffer in module._buffers.values()
        if buffer is not None
    }
    filled = (torch.zeros(()) if gradient is None else gradient for gradient in gradients)
    return [*(y.detach() for y in outputs), *filled, *buffers.values()]


def assert_same_function(teacher: nn.Module, student: nn.Module, *args: Any) -> None:
    """At γ = 0 the student computes what the teacher computes, in train and in eval mode, and so do its gradients."""
    student = copy.deepcopy(student)
    stocnoise.set_gamma(student, 0.0)
    for training in (True, False):
        ours, theirs = run(student, *args, training=training), run(teacher, *args, training=training)
        assert len(ours) == len(theirs)
        outputs = len(tensors(copy.deepcopy(teacher)(*_fresh(args))))
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if number < outputs:
                assert torch.equal(a, b), f"output {number} differs, training={training}"
            else:
                torch.testing.assert_close(a, b)


def assert_noisy(student: nn.Module, *args: Any, gamma: float = 0.1) -> None:
    """With σ of a batch two passes differ, in train and in eval mode."""
    student = copy.deepcopy(student).train()
    stocnoise.set_gamma(student, gamma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stocnoise.UncalibratedWarning)
        for training in (True, False):  # what runs in one mode only must see a batch in that mode
            student.train(training)
            for layer in layers(student).values():
                layer.train()
            student(*_fresh(args))
    for training in (True, False):
        student.train(training)
        a, b = tensors(student(*_fresh(args))), tensors(student(*_fresh(args)))
        assert any(not torch.equal(x, y) for x, y in zip(a, b, strict=True)), f"no noise, training={training}"


def _fresh(args: tuple[Any, ...]) -> list[Any]:
    return [a.clone() if isinstance(a, Tensor) else a for a in args]


def converted(teacher: nn.Module, *args: Any, **settings: Any) -> nn.Module:
    """A student of `teacher` that has passed the checks that hold for every student."""
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    classes = [type(module) for module in teacher.modules()]
    student = stocnoise.convert(teacher, args, **settings)
    assert [type(module) for module in teacher.modules()] == classes
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert_same_function(teacher, student, *args)
    assert_noisy(student, *args)
    return student


def sites(model: nn.Module, *args: Any, **settings: Any) -> list[stocnoise.Site]:
    return stocnoise.find_sites(model, args, **settings)


def names(model: nn.Module, *args: Any, **settings: Any) -> list[str]:
    return [site.name for site in sites(model, *args, **settings)]


def layers(student: nn.Module) -> dict[str, stocnoise.StochasticActivation]:
    return dict(stocnoise.stochastic_layers(student))


def swapped(module: nn.Module, **methods: Callable[..., Any]) -> nn.Module:
    """`module` with attributes set, for one-line test models."""
    for name, value in methods.items():
        setattr(module, name, value)
    return module


class Base(nn.Module):
    """A functional activation, and a module for subclasses to call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))
