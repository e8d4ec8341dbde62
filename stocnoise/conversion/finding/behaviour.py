"""What a function of one tensor does, told from its values: whether it is an activation, a gate, or neither.

A function is elementwise if no element of its output depends on another of its input. Elementwise, it is linear, or a
gate if it settles at both ends (sigmoid, tanh, hard sigmoid, however they are written), or an activation. A step, whose
slope is zero wherever it has one, is neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Behaviour = Literal["activation", "gate", "linear"]

_NEAR = torch.linspace(-6, 6, 49, dtype=torch.float64) + 0.0137  # clear of where steps and kinks are put
_FAR = torch.tensor([40.0, 50.0, 65.0, 80.0, 100.0], dtype=torch.float64)
GRID = torch.cat([_NEAR, _NEAR + 1e-6, _FAR, -_FAR])

_MOST = 20_000
"""Elements that are tried at once."""

# Bounded, and still activations: as functions of torch they count as such.
_BOUNDED: tuple[Callable[[Tensor], Tensor], ...] = (F.relu6, F.hardtanh, F.softsign)

_NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "hardswish": F.hardswish,
    "mish": F.mish,
}


def of_curve(y: Tensor) -> Behaviour | None:
    """What the function with the values y (over GRID along dimension 0) does; None if it is not one to add noise to."""
    y = y.detach().double().reshape(len(GRID), -1)[:, :256]
    near, shifted, right, left = y.split([len(_NEAR), len(_NEAR), len(_FAR), len(_FAR)])
    if not (near.isfinite().all() and right.isfinite().all() and left.isfinite().all()):
        return None
    scale = near.abs().amax(0).clamp(min=1e-6)
    if bool(((near[2:] - 2 * near[1:-1] + near[:-2]).abs() <= 1e-7 * scale).all()):
        return "linear"
    if bool(((shifted - near).abs() <= 1e-12 * scale).all()):
        return None
    if _settles(right, scale) and _settles(left, scale) and not _is_any(y, _BOUNDED):
        return "gate"
    return "activation"


def of_function(run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Behaviour | None:
    """What `run` does with tensors of `shape`; None also where it is not elementwise, is random, or does not run."""
    try:
        for tried in dict.fromkeys(_smaller(shape)):
            if math.prod(tried) <= _MOST and (elementwise := _elementwise(run, tried)) is not None:
                break
        else:
            return None
        grid = GRID.view(-1, *[1] * (len(tried) - 1)).expand(-1, *tried[1:]).clone()
        return of_curve(run(grid)) if elementwise else None
    except Exception:
        return None


def name_of_curve(y: Tensor) -> str | None:
    """The name of the well-known activation with the values y over GRID."""
    y = y.detach().double().reshape(len(GRID), -1)
    return next((name for name, known in _NAMED.items() if _is_any(y, (known,))), None)


def _smaller(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes to try instead: small ones, and such that fit weights of one dimension, the second or the last."""
    small = [2, *(min(n, 3) for n in shape[1:])]
    for kept in ((), (1,), (len(shape) - 1,), range(1, len(shape))):
        yield tuple(shape[dim] if dim in kept else small[dim] for dim in range(len(shape)))


def _elementwise(run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> bool | None:
    """None: it does not take this shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    other = torch.randn(*shape, generator=generator, dtype=torch.float64)
    touched = torch.rand(*shape, generator=generator) < 0.5
    try:
        y = run(x.clone())
    except Exception:
        return None
    if not (isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point() and bool(y.isfinite().all())):
        return False
    if not torch.equal(y, run(x.clone())):
        return False
    changed = run(torch.where(touched, other, x))
    return bool(torch.allclose(changed[~touched], y[~touched], rtol=1e-5, atol=1e-7))


def _settles(ends: Tensor, scale: Tensor) -> bool:
    return bool(((ends.amax(0) - ends.amin(0)) <= 0.02 * scale).all())


def _is_any(y: Tensor, known: Sequence[Callable[[Tensor], Tensor]]) -> bool:
    grid = GRID.view(-1, 1)
    return any(torch.allclose(y, function(grid).expand_as(y), rtol=1e-4, atol=1e-4) for function in known)
