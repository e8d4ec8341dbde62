"""A kernel that was compiled once is launched without Triton's own search, and only for what it was compiled for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from stocnoise import kernels
from stocnoise.activations import Activation, Operation
from stocnoise.kernels.launch import plan
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


def test_what_was_compiled_for_other_tensors_is_not_called(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Another dtype, other strides, another activation or mode: each is searched for, once."""
    kernel = Kernel()
    kernel.arg_names = tuple(kernels.rows_forward.arg_names)
    for name in ("rows_forward", "columns_forward"):
        monkeypatch.setattr(kernels, name, kernel)
    kernels.forget()
    request.addfinalizer(kernels.forget)
    x = torch.zeros(2, 8, 4, 4)
    strided = torch.zeros(2, 16, 4, 4)[:, ::2]
    sigma, gamma, seed = torch.ones(8), torch.tensor(0.1), torch.tensor([1])
    relu, gelu = (Operation(Activation(name), 1, shared=False) for name in ("relu", "gelu"))
    shared = Operation(Activation("relu"), 1, shared=True)
    different = [
        (x, relu),
        (x.bfloat16(), relu),
        (x.half(), relu),
        (strided, relu),
        (x, gelu),
        (x, shared),
        (x[:1], relu),
    ]
    for each, operation in [*different, *different]:
        kernels.forward(each, sigma, gamma, seed, operation, statistics=False)
    assert [call[0] for call in kernel.calls] == ["search"] * len(different) + ["compiled"] * len(different)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
def test_no_grid_is_larger_than_a_gpu_takes(statistics: bool, channels_last: bool) -> None:
    for shape in ((700, 1024, 56, 56), (4096, 64, 112, 112), (1 << 20, 2048, 1, 1), (2, 3, 1 << 15, 1 << 15)):
        x = torch.empty(shape, device="meta")
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        grid = (*plan(shape, x.stride(), 1, statistics=statistics).grid, 1, 1)
        assert grid[0] < 2**31 and max(grid[1:]) < 2**16
