"""A copy of a model that has its structure but not its memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            yield from (value for value in held.values() if isinstance(value, Tensor))


def fake_mode_for(model: nn.Module) -> FakeTensorMode:
    """The mode that the model's tensors are fake in already, or a new one."""
    return detect_fake_mode(list(_tensors(model))) or FakeTensorMode(allow_non_fake_inputs=True)


def skeleton(model: nn.Module, fake: FakeTensorMode | None) -> nn.Module:
    """A deep copy of `model` with fake tensors, or (without a mode) its own parameters and copies of its buffers."""
    memo: dict[int, Any] = {}
    for tensor in _tensors(model):
        if id(tensor) in memo:
            continue
        if fake is not None:
            memo[id(tensor)] = fake.from_tensor(tensor, static_shapes=True)
        else:
            memo[id(tensor)] = tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
    with torch.no_grad():
        duplicate = _copied(model, memo)
    for original, module in zip(model.modules(), duplicate.modules(), strict=True):
        module.__class__ = type(original)  # a torch.fx.GraphModule makes a class for each copy
    return duplicate


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy that shares what cannot be copied."""
    known = dict(memo)
    try:
        return copy.deepcopy(model, memo)
    except Exception:
        for _, _, value in not_copyable(model, known):
            known[id(value)] = value
        return copy.deepcopy(model, known)


def not_copyable(model: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, str, Any]]:
    """What in the attributes of modules cannot be copied: the module's path, the attribute, and the innermost value."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from ((path, name, found) for found in _stubborn(value, memo))


def _stubborn(value: Any, memo: dict[int, Any]) -> Iterator[Any]:
    if isinstance(value, nn.Module):
        return
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        held = value.values() if isinstance(value, dict) else value
        inside = isinstance(value, (dict, list, tuple, set)) and [
            found for item in held for found in _stubborn(item, memo)
        ]
        yield from inside or [value]


def own_hooks(model: nn.Module) -> None:
    """Unshare the hooks of all modules, so that what is hooked to one is not called for another."""
    for module in model.modules():
        own = {name: copy.copy(value) for name, value in vars(module).items() if name.endswith("_hooks")}
        vars(module).update(own)
