"""Activations that no function of torch announces: operators called by compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NAMES = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu_with_noise", "threshold", "hardtanh", "elu", "gelu", "silu"),
    *("hardswish", "mish", "softplus", "_prelu_kernel"),
}


class Operators(TorchDispatchMode):
    """Tells of each operator that is an activation; whoever listens knows which calls are accounted for."""

    supports_higher_order_operators = True

    def __init__(self, tell: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "overloadpacket", func).__name__.rstrip("_")
        if name in _NAMES and args and isinstance(args[0], Tensor):
            self._tell(name.strip("_"), args[0])
        return func(*args, **(kwargs or {}))
