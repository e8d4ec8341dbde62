"""Counting activations in a run by what reaches ATen, and by the names of classes: nothing of the conversion's own.

A call counts where a module without children whose class is named like an activation is called, or where an operator of
ATen that is one runs outside such modules. Inside stochastic layers nothing counts but the layer. In a student a call
whose input came from a stochastic layer through elementwise operations alone has its noise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stocnoise

_OPERATORS = {
    *("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "threshold", "hardtanh", "elu", "gelu", "silu"),
    *("hardswish", "mish", "softplus", "hardshrink", "softshrink"),
}
_NAMED = re.compile(
    r"(?i)(relu|gelu|swish|silu|mish|elu|softplus|softsign)(act|me|jit|activation|squared|tanh)?$|^(sine|snake)$"
)
_GATES = re.compile(r"(?i)(sigmoid|tanh|softmax|softmin)$")
_FRESH = "_benchmark_fresh"


@dataclass
class Count:
    """What one pass called."""

    bare: int = 0
    """Activations without noise."""
    stochastic: Counter[str] = field(default_factory=Counter)
    """Calls of each stochastic layer, by name."""


class _Counting(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()
        self._inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "overloadpacket", func).__name__
        if not self._inside and name.removesuffix("_") in _OPERATORS:
            self._activation(args[0])
        output = func(*args, **(kwargs or {}))
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor) and not _is_weight(a)]
        if isinstance(output, Tensor) and tensors and all(getattr(a, _FRESH, False) for a in tensors):
            setattr(output, _FRESH, output.shape == tensors[0].shape)
        return output

    def _activation(self, x: Any) -> None:
        """By design parameters and tensors without channels take no noise."""
        real = isinstance(x, Tensor) and x.is_floating_point() and not isinstance(x, nn.Parameter)
        real = real and x.dim() > 1 and x.numel() > 0
        self.count.bare += real and not getattr(x, _FRESH, False)

    def watch(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Hooks on a module whose inside does not count."""
        stochastic = isinstance(module, stocnoise.StochasticActivation)
        leaf = not module._modules
        kind = type(module).__name__
        named = leaf and _NAMED.search(kind) is not None
        gate = (
            leaf and not named and (_GATES.search(kind) is not None or isinstance(module, (nn.RNNBase, nn.RNNCellBase)))
        )
        if not (stochastic or named or gate):
            return

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not stochastic and module._modules:
                return  # a view of this module, which shares its hooks, with noise of its own inside
            if not self._inside and stochastic:
                self.count.stochastic[name] += 1
            elif not self._inside and named and args:
                self._activation(args[0])
            self._inside += 1

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not stochastic and module._modules:
                return
            self._inside -= 1
            if stochastic and isinstance(output, Tensor):
                setattr(output, _FRESH, True)

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave)


def _is_weight(a: Tensor) -> bool:
    return isinstance(a, nn.Parameter) or a.numel() == 1


def count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool) -> Count:
    """Run `model` once in the given mode and count; what it leaves to chance is the same each time."""
    counting = _Counting()
    torch.manual_seed(0)
    model.train(training)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which computes activations without calling them
    try:
        with ExitStack() as stack:
            for name, module in model.named_modules():
                for handle in counting.watch(name, module):
                    stack.callback(handle.remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(counting)
            model(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counting.count
