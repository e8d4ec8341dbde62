"""A copy of a model that has its structure but not its memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode


def slots(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Each place that holds a submodule: (path, parent, name, child).

    Unlike `named_modules` this gives a child under every name that it has in one parent; a parent is entered once.
    """
    entered: set[int] = set()

    def walk(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
        if id(parent) in entered:
            return
        entered.add(id(parent))
        for name, child in parent._modules.items():
            if child is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield path, parent, name, child
                yield from walk(child, path)

    yield from walk(model, prefix)


def is_plain_leaf(module: nn.Module) -> bool:
    """A module with nothing inside, as most activations are: copying it changes no parameter and no key."""
    return not (module._modules or module._parameters or module._buffers)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            yield from (value for value in held.values() if isinstance(value, Tensor))


def fake_mode_for(model: nn.Module) -> FakeTensorMode:
    """The mode that the model's tensors are fake in already, or a new one."""
    return detect_fake_mode(list(_tensors(model))) or FakeTensorMode(allow_non_fake_inputs=True)


def skeleton(model: nn.Module, fake: FakeTensorMode | None) -> nn.Module:
    """A deep copy of `model` with fake tensors, or (without a mode) with its own parameters and copies of its buffers.

    A plain leaf that stands in several places becomes one object for each place, so that a call tells its place, and no
    two modules share their hooks.
    """
    memo: dict[int, Any] = {}
    for tensor in _tensors(model):
        if id(tensor) in memo:
            continue
        if fake is not None:
            memo[id(tensor)] = fake.from_tensor(tensor, static_shapes=True)
        else:
            memo[id(tensor)] = tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
    with torch.no_grad():
        duplicate = copy.deepcopy(model, memo)
    for original, module in zip(model.modules(), duplicate.modules(), strict=True):
        module.__class__ = type(original)  # a torch.fx.GraphModule makes a class for each copy
    separate_leaves(duplicate)
    for module in duplicate.modules():
        _own_hooks(module)
    return duplicate


def separate_leaves(model: nn.Module) -> None:
    """Give each place that shares a plain leaf a copy of its own."""
    seen: set[int] = set()
    for _, parent, name, child in list(slots(model)):
        if is_plain_leaf(child) and id(child) in seen:
            child = copy.copy(child)
            parent._modules[name] = child
        seen.add(id(child))


def _own_hooks(module: nn.Module) -> None:
    vars(module).update({name: copy.copy(value) for name, value in vars(module).items() if name.endswith("_hooks")})
