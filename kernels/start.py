"""A kernel with all its arguments but the tensors, started again and again.

Triton binds, specialises and looks up the arguments of every call anew, 12 to 20 µs of host time a launch. Of a layer's
launches only the tensors change from call to call, so what was compiled for them is kept here and called itself, which
takes 3. What Triton would compile for depends on the tensors by their types and by whether they begin at a multiple of
16 bytes: the first is for the holder of a `Start` to tell apart, the second is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Triton's own limit between two compilations of a kernel for a pointer.
ALIGNED = 16


@dataclass(slots=True, eq=False)
class Start:
    """One launch of a kernel, its tensors excepted, on one device and for tensors of certain types."""

    kernel: Any
    grid: tuple[int, int, int]
    others: tuple[Any, ...]
    """The kernel's arguments after its tensors, in order."""
    options: dict[str, Any]
    """The compiler's: `num_warps` and its like."""
    compiled: Any = None
    """What Triton made of the kernel for aligned tensors; the interpreter makes nothing."""

    def __call__(self, *tensors: Any) -> None:
        """Launch on the current device and stream."""
        aligned = True
        for tensor in tensors:
            aligned = aligned and tensor.data_ptr() % ALIGNED == 0
        if aligned and self.compiled is not None:
            self.compiled[self.grid](*tensors, *self.others)
            return
        compiled = self.kernel[self.grid](*tensors, *self.others, **self.options)
        if aligned:
            self.compiled = compiled


def start(kernel: Any, grid: tuple[int, ...], named: dict[str, Any]) -> Start:
    """A `Start` of this kernel, of its arguments by name; what is no argument of it is an option."""
    order = [name for name in kernel.arg_names if name in named]
    others = tuple(named[name] for name in order)
    options = {name: value for name, value in named.items() if name not in order}
    whole = (*grid, 1, 1)
    return Start(kernel, (whole[0], whole[1], whole[2]), others, options)
