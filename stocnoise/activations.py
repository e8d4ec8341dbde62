"""Activations by name, and what the fused operation does with one: h(x + noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

# What the fused operation knows, by name, with the deterministic function. Only LeakyReLU has a `slope`.
_FUSED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, slope: x,
    "relu": lambda x, slope: F.relu(x),
    "relu6": lambda x, slope: F.relu6(x),
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "gelu": lambda x, slope: F.gelu(x),
    "gelu_tanh": lambda x, slope: F.gelu(x, approximate="tanh"),
    "silu": lambda x, slope: F.silu(x),
    "hardswish": lambda x, slope: F.hardswish(x),
}

FUSED = frozenset(_FUSED)
"""Names that `stocnoise.functional.stoc_act` computes in one operation."""


@dataclass(frozen=True)
class Activation:
    """One of the activations in `FUSED`. `Activation("leaky_relu", 0.2)(x)` is `F.leaky_relu(x, 0.2)`."""

    name: str
    slope: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in FUSED:
            raise ValueError(f"unknown activation {self.name!r}: expected one of {', '.join(sorted(FUSED))}")
        if isinstance(self.slope, bool) or not isinstance(self.slope, int | float) or not math.isfinite(self.slope):
            raise ValueError(f"slope must be a finite number, not {self.slope!r}")

    def __call__(self, x: Tensor) -> Tensor:
        return _FUSED[self.name](x, self.slope)

    def __str__(self) -> str:
        return f"leaky_relu({self.slope:g})" if self.name == "leaky_relu" else self.name

    @property
    def output_decides(self) -> bool:
        """Whether h'(u) is a function of h(u) alone, so that a backward pass needs neither u nor its noise.

        LeakyReLU of a negative slope sends both signs to the same one.
        """
        return self.name in ("relu", "relu6") or (self.name == "leaky_relu" and self.slope >= 0)


@dataclass(frozen=True)
class Operation:
    """y = h(x + √γ · σ_c · z) without its tensors.

    Args:
        activation: h.
        channel_dim: the dimension of x that c runs along; negative counts from the end.
        shared: whether every row x[i] has the same z.
        donated: whether x's memory may be overwritten, because nothing reads x again.
    """

    activation: Activation
    channel_dim: int
    shared: bool
    donated: bool = False
