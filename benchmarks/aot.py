"""Compile every kernel without a GPU and count what it costs: instructions, barriers, bytes.

    python -m benchmarks.aot [--target sm_80|sm_90|sm_100|gfx942] [--save DIR] [--json]

Each kernel is compiled exactly as `stocnoise.kernels` would launch it for the shape in the table. An instruction is one
of the machine's (SASS, or GCN), of those in the loop that moves the data, executed in every turn or not. Barriers are
those that a program meets, and in brackets those in each turn of that loop. Bytes are what passes between memory and
processors for an element of the tensor, statistics there and back included, beside what the tensors alone would take.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
DTYPES = {"bf16": 16, "fp16": 16, "fp32": 32}
# name: shape, channels last. The first two are the plain cases, the others are where channels don't divide evenly.
LAYOUTS = {
    "nchw": ((256, 64, 56, 56), False),
    "channels_last": ((256, 64, 56, 56), True),
    "nchw_7x7": ((256, 512, 7, 7), False),
    "nchw_14x14": ((256, 256, 14, 14), False),
    "nchw_17x17": ((256, 768, 17, 17), False),
    "nchw_3x3": ((256, 512, 3, 3), False),
    "channels_last_c18": ((256, 18, 56, 56), True),
    "channels_last_c96": ((256, 96, 56, 56), True),
    "tokens_c768": ((256, 768, 197, 1), True),
}
# name: shape and strides of an input that is not dense. Of the first two memory holds pieces of eight, which stay
# vectors; the last has two skips, between rows and between maps.
STRIDED = {
    "slice_of_channels": ((256, 64, 56, 56), (128 * 3136, 3136, 56, 1)),
    "slice_of_tokens": ((256, 768, 196, 1), (197 * 768, 1, 768, 768)),
    "every_second_column": ((256, 64, 56, 28), (64 * 3136, 3136, 56, 2)),
    "crop": ((256, 64, 54, 54), (64 * 3136, 3136, 56, 1)),
}
ACTIVATIONS = ("relu", "relu6", "leaky_relu", "gelu", "gelu_tanh", "silu", "hardswish", "identity")
PASSES = ("forward-train", "forward-eval", "backward")
# The sides of a tile, by family of kernels.
TILES = {"rows": ("KC", "WIDTH"), "columns": ("BM", "BN"), "pointwise": ("BLOCK",)}


@dataclass
class Count:
    """One compiled kernel; see the table's columns in DESIGN.md, section 4."""

    kernel: str
    dtype: str
    layout: str
    target: str
    tile: int
    num_warps: int
    instructions_per_element: float
    waste: float
    """Elements of the tiles for each element of the tensor: what masks throw away."""
    registers: int
    spills: int
    load_bits: int
    store_bits: int
    barriers: int
    """That a program of the grid meets."""
    loop_barriers: int
    """Of these, in each turn of the main loop."""
    bytes_per_element: float
    bytes_at_best: int
    file: str = ""


def _layout(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides."""
    if name in STRIDED:
        return STRIDED[name]
    shape, channels_last = LAYOUTS[name]
    _, c, h, w = shape
    return shape, (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


def compile_kernel(step: str, activation: str, dtype: str, layout: str, target: str) -> tuple[Any, Any]:
    """The compiled kernel and the launch it is compiled for."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from stocnoise import kernels
    from stocnoise.activations import Activation
    from stocnoise.kernels.launch import plan, plan_pointwise, registers
    from stocnoise.kernels.layout import walk_of

    backend, arch, warp = TARGETS[target]
    shape, strides = _layout(layout)
    dense = torch.empty_like(torch.empty_strided(shape, strides, device="meta")).stride()
    if step == "backward" and Activation(activation).output_decides:
        launch = plan_pointwise(math.prod(shape))
    else:
        launch = plan(shape, dense, 1, statistics=step == "forward-train", nvidia=backend == "cuda")
    kernel = getattr(kernels, f"{launch.family}_{step.partition('-')[0]}")
    given = {
        **launch.arguments,
        **launch.forward_arguments,
        "ACTIVATION": activation,
        "STATISTICS": step == "forward-train",
    }
    constants = {
        a: given[a] for a in kernel.arg_names if a.isupper() and a in given and a not in ("N", "C", "S", "R", "W")
    }
    types = {
        "sigma_ptr": "*fp32",
        "gamma_ptr": "*fp32",
        "parts_ptr": "*fp32",
        "scale_ptr": "*fp32",
        "seed_ptr": "*i64",
        "slope": "fp32",
    }
    signature = {
        a: "constexpr" if a in constants else types.get(a, "*" + dtype if a.endswith("_ptr") else "i32")
        for a in kernel.arg_names
    }
    aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if a.endswith("_ptr")}
    for i, name in enumerate(kernel.arg_names):
        if name in ("walk", "grad_walk", "noise_walk"):
            walk = () if name == "noise_walk" else walk_of(shape, strides, dense)
            # As a launch would have it: the first, the unit, and every 1 are constants.
            fixed = {(i, j): n for j, n in enumerate(walk) if j == 0 or n == 1}
            constants |= fixed
            signature[name] = tuple("constexpr" if (i, j) in fixed else "i32" for j in range(len(walk)))
            aligned |= {(i, j): [["tt.divisibility", 16]] for j, n in enumerate(walk) if j > 0 and n % 16 == 0}
    options = {"num_warps": launch.arguments["num_warps"], "enable_fp_fusion": True}
    if step.startswith("forward"):
        options |= registers(given["STATISTICS"], backend == "cuda", walk_of(shape, strides, dense))
    source = ASTSource(kernel, signature, constants, aligned)
    return compile(source, target=GPUTarget(backend, arch, warp), options=options), launch


def compile_statistics(target: str) -> list[str]:
    """The disassembly of the two kernels that merge statistics and move σ."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from stocnoise.kernels.moments import merge_parts, move_sigma

    backend, arch, warp = TARGETS[target]
    texts = []
    for kernel, constants in ((merge_parts, {"BLOCK_C": 4, "BLOCK_Q": 256}), (move_sigma, {"BLOCK": 1024})):
        types = {"batches_ptr": "*i64", "alpha": "fp32"}
        signature = {
            a: "constexpr" if a in constants else types.get(a, "*fp32" if a.endswith("_ptr") else "i32")
            for a in kernel.arg_names
        }
        options = {"enable_fp_fusion": True}
        compiled = compile(ASTSource(kernel, signature, constants), GPUTarget(backend, arch, warp), options)
        texts.append(disassemble(compiled.asm["cubin"]) if backend == "cuda" else compiled.asm["amdgcn"])
    return texts


def _nvdisasm() -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm")


def disassemble(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([_nvdisasm(), "-c", str(path)], capture_output=True, text=True, check=True).stdout


def _sass(text: str) -> tuple[list[str], dict[str, int], re.Pattern[str]]:
    """Instructions, the index at which each label stands, and how a branch names its label."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1].strip())
    return instructions, labels, re.compile(r"\bBRA\b.*?\(?(\.L_x_\d+)\)?")


def _gcn(text: str) -> tuple[list[str], dict[str, int], re.Pattern[str]]:
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"(\.?L\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+((?:s|v|global|buffer|ds|flat)_\w+.*?)(?:\s*;.*)?$", line):
            instructions.append(instruction[1].strip())
    return instructions, labels, re.compile(r"s_c?branch\w*\s+(\.?L\w+)")


_STORE = re.compile(r"STG|global_store|buffer_store")
_END = re.compile(r"\bEXIT\b|s_endpgm")
_BARRIER = re.compile(r"\bBAR\.|\bs_barrier\b")
_LOAD = re.compile(r"LDG|global_load|buffer_load")


def _bits(instruction: str) -> int:
    """How wide a memory instruction is."""
    if sass := re.search(r"\b(?:LDG|STG)(?:\.\w+)*?\.(?:U)?(\d+)\b", instruction):
        return int(sass[1])
    if re.search(r"\b(LDG|STG)", instruction):
        return 32
    if gcn := re.search(r"_dwordx(\d)", instruction):
        return 32 * int(gcn[1])
    return 32 if "_dword" in instruction else 16


def main_loop(text: str, backend: str) -> list[str]:
    """The instructions of the innermost loop that stores the result; if it has no loop, all up to the kernel's end.

    The result is stored in the widest pieces; statistics in narrow ones, on AMD within what looks like a loop.
    """
    instructions, labels, branch = (_sass if backend == "cuda" else _gcn)(text)
    loops = []
    for end, instruction in enumerate(instructions):
        if (match := branch.search(instruction)) and labels.get(match[1], end) < end:
            body = instructions[labels[match[1]] : end + 1]
            stores = [_bits(i) for i in body if _STORE.search(i)]
            loops.append((max(stores, default=0), len(stores), -len(body), body))
    # Behind the end there is padding.
    last = max((i for i, text in enumerate(instructions) if _END.search(text)), default=len(instructions))
    return max((loop for loop in loops if loop[0]), default=(0, 0, 0, instructions[: last + 1]))[-1]


def count(step: str, activation: str, dtype: str, layout: str, target: str, save: Path | None = None) -> Count:
    """Compile one kernel and count."""
    compiled, launch = compile_kernel(step, activation, dtype, layout, target)
    backend = TARGETS[target][0]
    text = disassemble(compiled.asm["cubin"]) if backend == "cuda" else compiled.asm["amdgcn"]
    instructions = (_sass if backend == "cuda" else _gcn)(text)[0]
    body = main_loop(text, backend)
    stores = [_bits(i) for i in body if _STORE.search(i)]
    loads = [_bits(i) for i in body if _LOAD.search(i)]
    inside, everywhere = (len(_BARRIER.findall("\n".join(some))) for some in (body, instructions))
    moved, best = _bytes(step, dtype, layout, launch)
    arguments = launch.arguments
    tile = math.prod(arguments[side] for side in TILES[launch.family])
    threads = arguments["num_warps"] * TARGETS[target][2]
    if backend == "cuda":
        registers = max(int(r) for r in re.findall(r"\bR(\d+)\b", text)) + 1
        spills = len(re.findall(r"\b(?:LDL|STL)\b", text))
    else:
        registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])  # type: ignore[index]
        spills = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1])  # type: ignore[index]
    name = f"{step}-{activation}"
    file = ""
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        suffix = "cubin" if backend == "cuda" else "hsaco"
        path = save / f"{name}-{dtype}-{layout}-{target}.{suffix}"
        path.write_bytes(compiled.asm[suffix])
        path.with_suffix(".s").write_text(text)
        file = path.name
    return Count(
        kernel=name,
        dtype=dtype,
        layout=layout,
        target=target,
        tile=tile,
        num_warps=arguments["num_warps"],
        instructions_per_element=round(len(body) / (tile / threads), 2),
        waste=round(launch.waste, 3),
        registers=registers,
        spills=spills,
        load_bits=min(loads, default=0),
        store_bits=min(stores, default=0),
        barriers=everywhere + (_turns(launch) - 1) * inside,
        loop_barriers=inside,
        bytes_per_element=round(moved, 3),
        bytes_at_best=best,
        file=file,
    )


def _turns(launch: Any) -> int:
    """Turns of a program's main loop."""
    given = launch.arguments
    if launch.family == "columns":
        return math.ceil(given["R"] / (given["BM"] * launch.grid[1]))
    return given["k_each"] * math.ceil(given["N"] / launch.grid[1]) if launch.family == "rows" else 1


def _bytes(step: str, dtype: str, layout: str, launch: Any) -> tuple[float, int]:
    """What is moved for an element, and what would be without statistics; each of their parts is 16 bytes, twice."""
    shape, _ = _layout(layout)
    best = DTYPES[dtype] // 8 * (3 if step == "backward" else 2)
    parts = launch.parts * shape[1] if step == "forward-train" else 0
    return best + 32 * parts / math.prod(shape), best


def cases() -> Iterator[tuple[str, str, str, str]]:
    """Every kernel: all activations in both plain layouts and all dtypes, ReLU and GELU in all layouts."""
    for layout in LAYOUTS:
        for dtype in DTYPES:
            for activation in ACTIVATIONS if layout in ("nchw", "channels_last") else ("relu", "gelu"):
                for step in PASSES:
                    if (step, activation) != ("backward", "identity"):
                        yield step, activation, dtype, layout
    for layout in STRIDED:
        for dtype in DTYPES:
            yield from (("forward-train", "relu", dtype, layout), ("forward-eval", "relu", dtype, layout))
            yield "backward", "gelu", dtype, layout


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=sorted(TARGETS), default="sm_90")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write each binary and its disassembly here")
    parser.add_argument("--json", action="store_true", help="print one object a line instead of a table")
    options = parser.parse_args(arguments)
    if not options.json:
        print(
            f"{'kernel':25} {'dtype':5} {'layout':19} {'instr/elem':>10} {'waste':>6} {'regs':>4} spills load store "
            f"{'barriers':>10} {'bytes (best)':>12}"
        )
    for case in cases():
        c = count(*case, target=options.target, save=options.save)
        if options.json:
            print(json.dumps(asdict(c)), flush=True)
        else:
            print(
                f"{c.kernel:25} {c.dtype:5} {c.layout:19} {c.instructions_per_element:10.2f} {c.waste:6.2f} "
                f"{c.registers:4} {c.spills:6} {c.load_bits:4} {c.store_bits:5} "
                f"{f'{c.barriers} ({c.loop_barriers})':>10} {f'{c.bytes_per_element:.2f} ({c.bytes_at_best})':>12}",
                flush=True,
            )


if __name__ == "__main__":
    main()
