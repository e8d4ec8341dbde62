"""A kernel that was compiled once is launched without Triton's own search, and only for what it was compiled for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from stocnoise.kernels.start import start

Call = tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any]]


class Kernel:
    """What a `triton.jit` function looks like to its caller: it compiles, launches, and returns what it compiled."""

    arg_names = ("x_ptr", "y_ptr", "n", "BLOCK")

    def __init__(self, makes: bool = True) -> None:
        self.calls: list[Call] = []
        self.makes = makes

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> Any:
            self.calls.append(("search", grid, args, options))
            return Compiled(self.calls) if self.makes else None

        return launch


class Compiled:
    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **options: self.calls.append(("compiled", grid, args, options))


def test_the_second_launch_is_of_what_the_first_compiled() -> None:
    kernel, (x, y) = Kernel(), torch.zeros(2, 8)
    launch = start(kernel, (3,), {"BLOCK": 16, "n": 8, "num_warps": 4})
    launch(x, y)
    launch(y, x)
    assert [call[0] for call in kernel.calls] == ["search", "compiled"]
    (_, grid, given, options), (_, again, compiled, no_options) = kernel.calls
    assert grid == again == (3, 1, 1)
    assert given[2:] == compiled[2:] == (8, 16)
    assert given[0] is x and compiled[0] is y
    assert options == {"num_warps": 4} and no_options == {}


@pytest.mark.parametrize("which", [0, 1])
def test_a_tensor_that_begins_between_vectors_is_searched_for(which: int) -> None:
    kernel, (x, y) = Kernel(), torch.zeros(2, 8)
    odd = [x, y]
    odd[which] = torch.zeros(9)[1:]
    launch = start(kernel, (1,), {"n": 8, "BLOCK": 16})
    launch(*odd)
    launch(x, y)
    launch(*odd)
    launch(x, y)
    assert [call[0] for call in kernel.calls] == ["search", "search", "search", "compiled"]


def test_the_interpreter_compiles_nothing() -> None:
    kernel, x = Kernel(makes=False), torch.zeros(8)
    launch = start(kernel, (1, 2, 3), {"n": 8, "BLOCK": 16})
    for _ in range(2):
        launch(x, x)
    assert [call[0] for call in kernel.calls] == ["search", "search"]
    assert kernel.calls[0][1] == (1, 2, 3)
