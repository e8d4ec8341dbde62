"""Instruction budgets of every kernel, compiled ahead of time: a test of speed that needs no GPU."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("triton")

from benchmarks import aot
from stocnoise.kernels.launch import plan

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles under TRITON_INTERPRET"
)

NVIDIA = ("sm_80", "sm_90", "sm_100")
UNEVEN = [name for name in aot.LAYOUTS if name not in ("nchw", "channels_last")]

# Instructions per element in bf16. An H200 has time for 27 while it reads x and writes y, and for 40 in a backward
# pass, which reads twice. Tiles that lie side by side at the same time, and of columns the next one loaded ahead, cost
# one or two of them and saved 10 to 20 % of the time on an H100.
TRAIN, TRAIN_CHANNELS_LAST, EVAL = 22, 24, 19
# Twice as much time, of which a Philox call for four elements in place of eight takes a part.
FP32 = 33
# The backward pass of an activation whose derivative y decides.
FROM_OUTPUT, GFX_FROM_OUTPUT = 10, 17
# What other activations may add to the training forward, and the whole of their backward.
EXTRA = {"relu6": 3, "leaky_relu": 3, "gelu": 22, "gelu_tanh": 13, "silu": 10, "hardswish": 6, "identity": 0}
BACKWARD = {"gelu": 45, "gelu_tanh": 38, "silu": 33, "hardswish": 27}
# gfx942: polynomials in place of fast intrinsics. Triton 3.6 makes up to one instruction more of them than 3.9.
GFX_TRAIN, GFX_EVAL, GFX_FP32 = 46, 42, 46
GFX_EXTRA = {"relu6": 4, "leaky_relu": 4, "gelu": 33, "gelu_tanh": 21, "silu": 18, "hardswish": 8, "identity": 0}
GFX_BACKWARD = {"gelu": 75, "gelu_tanh": 70, "silu": 66, "hardswish": 48}

# How many times as many where x and the gradient are not dense: in pieces of eight elements, which stay vectors and
# share their divisions; and otherwise, where statistics are added up in the order of dense ones, so that strides change
# no bit.
PIECES, ELEMENTS = 1.25, 3.5


def clean(step: str, activation: str, dtype: str, layout: str, target: str) -> aot.Count:
    """The count of a kernel that spills nothing, moves whole vectors and lets its warps run apart."""
    count = aot.count(step, activation, dtype, layout, target)
    assert count.spills == 0
    assert count.loop_barriers == 0
    assert count.load_bits == count.store_bits == 128
    return count


@pytest.mark.slow
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(("layout", "train"), [("nchw", TRAIN), ("channels_last", TRAIN_CHANNELS_LAST)])
def test_relu(layout: str, train: float, target: str) -> None:
    assert clean("forward-train", "relu", "bf16", layout, target).instructions_per_element <= train
    assert clean("forward-eval", "relu", "bf16", layout, target).instructions_per_element <= EVAL
    assert clean("forward-train", "relu", "fp16", layout, target).instructions_per_element <= train
    assert clean("forward-train", "relu", "fp32", layout, target).instructions_per_element <= FP32
    assert clean("forward-eval", "relu", "fp32", layout, target).instructions_per_element <= FP32


@pytest.mark.slow
@pytest.mark.parametrize("layout", UNEVEN)
def test_relu_on_channels_that_do_not_divide_evenly(layout: str) -> None:
    """For each element of the tensor, so with what the masks throw away."""
    for dtype, train in (("bf16", TRAIN_CHANNELS_LAST), ("fp32", FP32)):
        count = clean("forward-train", "relu", dtype, layout, "sm_90")
        assert count.instructions_per_element * count.waste <= train
    count = clean("forward-eval", "relu", "bf16", layout, "sm_90")
    assert count.instructions_per_element * count.waste <= EVAL


@pytest.mark.slow
@pytest.mark.parametrize("layout", aot.LAYOUTS)
def test_what_the_statistics_cost(layout: str) -> None:
    """Barriers after the loop, and bytes beside those of x and y: an eighth where a program has few turns."""
    count = clean("forward-train", "relu", "bf16", layout, "sm_90")
    assert count.barriers <= 40
    assert count.bytes_per_element <= 1.12 * count.bytes_at_best


# Sizes of real models, and odd ones. A share of the tiles that masks throw away is instructions for nothing.
WIDTHS = (3, 8, 18, 33, 40, 65, 72, 96, 100, 112, 144, 176, 200, 264, 272, 336, 513, 520, 768, 1000)


@pytest.mark.parametrize("channels", WIDTHS)
def test_channels_last_fill_their_tiles(channels: int) -> None:
    shape = (256, channels, 14, 14)
    assert plan(shape, (196 * channels, 1, 14 * channels, channels), 1).waste < 1.07


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 9, 13, 14, 17, 21, 27, 35, 55])
@pytest.mark.parametrize("channels", [5, 24, 65, 512])
def test_rows_fill_their_tiles(channels: int, size: int) -> None:
    shape = (256, channels, size, size)
    assert plan(shape, (channels * size * size, size * size, size, 1), 1).waste < 1.11


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("outer", [1, 70_000, 1_000_000])
@pytest.mark.parametrize(("channels", "size"), [(1, 1000), (3, 601), (3, 24), (8, 1), (20, 3), (64, 64), (70_000, 8)])
def test_the_grid_is_one_that_cuda_takes(channels: int, size: int, outer: int, statistics: bool) -> None:
    """Its first side may have 2³¹ − 1 programs, its second 65,535."""
    first, second = plan((outer, channels, size), (channels * size, size, 1), 1, statistics=statistics).grid
    assert first < 2**31 and second < 2**16


@pytest.mark.slow
@pytest.mark.parametrize("activation", sorted(EXTRA))
@pytest.mark.parametrize(("layout", "train"), [("nchw", TRAIN), ("channels_last", TRAIN_CHANNELS_LAST)])
def test_other_activations(activation: str, layout: str, train: float) -> None:
    count = clean("forward-train", activation, "bf16", layout, "sm_90")
    assert count.instructions_per_element <= train + EXTRA[activation]
    if activation in BACKWARD:
        count = clean("backward", activation, "bf16", layout, "sm_90")
        assert count.instructions_per_element <= BACKWARD[activation]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("layout", sorted(aot.STRIDED))
def test_inputs_that_are_not_dense(layout: str, target: str) -> None:
    """The result is dense in any case, and stored as whole vectors."""
    amd = target == "gfx942"
    pieces = layout.startswith("slice")
    train = GFX_TRAIN if amd else TRAIN_CHANNELS_LAST if "tokens" in layout else TRAIN
    budgets = {
        ("forward-train", "relu"): train,
        ("forward-eval", "relu"): GFX_EVAL if amd else EVAL,
        ("backward", "gelu"): (GFX_BACKWARD if amd else BACKWARD)["gelu"],
    }
    for (step, activation), budget in budgets.items():
        count = aot.count(step, activation, "bf16", layout, target)
        assert count.instructions_per_element * count.waste <= (PIECES if pieces else ELEMENTS) * budget
        assert count.spills == 0
        assert (count.load_bits, count.store_bits) == (128 if pieces else 16, 128)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("activation", aot.ACTIVATIONS)
def test_amd(activation: str, layout: str) -> None:
    extra = GFX_EXTRA.get(activation, 0)
    assert clean("forward-train", activation, "bf16", layout, "gfx942").instructions_per_element <= GFX_TRAIN + extra
    assert clean("forward-eval", activation, "bf16", layout, "gfx942").instructions_per_element <= GFX_EVAL + extra
    assert clean("forward-eval", activation, "fp32", layout, "gfx942").instructions_per_element <= GFX_FP32 + extra
    if activation in GFX_BACKWARD:
        count = clean("backward", activation, "bf16", layout, "gfx942")
        assert count.instructions_per_element <= GFX_BACKWARD[activation]


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(aot.TARGETS))
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu"])
def test_backward_from_the_output(activation: str, target: str) -> None:
    """In whatever order elements lie; with a number of them that is no multiple of the tile's, too."""
    budget = GFX_FROM_OUTPUT if target == "gfx942" else FROM_OUTPUT
    for dtype, layout in (("bf16", "nchw"), ("bf16", "channels_last"), ("fp16", "nchw"), ("fp32", "nchw_7x7")):
        count = clean("backward", activation, dtype, layout, target)
        assert count.instructions_per_element * count.waste <= budget


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(aot.TARGETS))
def test_statistics_kernels_compile(target: str) -> None:
    for text in aot.compile_statistics(target):
        assert len(aot.main_loop(text, aot.TARGETS[target][0])) > 20


@pytest.mark.slow
def test_no_call_and_no_inline_assembly_is_left_on_amd() -> None:
    """A failed lowering still gives a binary there: only its text tells."""
    compiled, _ = aot.compile_kernel("forward-train", "gelu", "bf16", "nchw", "gfx942")
    text = compiled.asm["amdgcn"]
    assert "s_swappc" not in text
    assert "ASMSTART" not in text
    assert "s_endpgm" in text


def test_the_counter_sees_the_loop() -> None:
    """Of a listing with a loop of four instructions, one of them the store; and of nested loops the inner one."""
    sass = """
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   IADD3 R1, R1, R2, RZ ;
.L_x_0:
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   FADD R4, R4, R4 ;
        /*0040*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0050*/              @!P0 BRA `(.L_x_0) ;
        /*0060*/              @!P1 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
"""
    body = aot.main_loop(sass, "cuda")
    assert [line.split()[0] for line in body] == ["LDG.E.128", "FADD", "STG.E.128", "@!P0"]
