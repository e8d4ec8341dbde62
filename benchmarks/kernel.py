"""Time the fused operation on a GPU beside a copy, `torch.relu`, the eager composition and its `torch.compile`.

    python -m benchmarks.kernel [--first | --quick] [--out FILE] [--plot FILE]

Every row is a median of calls with a cold L2 cache, in milliseconds with the 20 and 80 % quantiles; GB/s count the
bytes that any implementation must move (forward x and y, backward grad, y and dx), and `of_copy` is that bandwidth in
percent of `torch.clone`'s in the same run. A line is printed as soon as it is measured. Rows are appended to
`benchmarks/results/kernel.jsonl` with commit, versions, device and clocks, and the plot is drawn from the newest run
there. Without a GPU it runs tiny sizes, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import stocnoise
from benchmarks import kernel_report
from benchmarks.origin import origin

RESULTS = Path(__file__).parent / "results" / "kernel.jsonl"
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

# (shape, channel dim, activation); the last of each group is past any L2 cache, 256 MiB and more in bf16.
SHAPES: list[tuple[tuple[int, ...], int, str]] = [
    ((256, 64, 56, 56), 1, "relu"),
    ((256, 256, 56, 56), 1, "relu"),
    ((256, 512, 28, 28), 1, "relu"),
    ((1024, 512, 14, 14), 1, "relu"),
    ((1024, 2048, 7, 7), 1, "relu"),
    ((64, 64, 112, 112), 1, "relu"),
    ((256, 197, 3072), 2, "gelu"),  # ViT-B
    ((256, 56, 56, 384), 3, "gelu"),  # ConvNeXt-T
]
FIRST = [SHAPES[1], SHAPES[0], SHAPES[4], SHAPES[6], SHAPES[7], SHAPES[2]]
QUICK = [SHAPES[0], SHAPES[1], SHAPES[4], SHAPES[6]]
SMOKE: list[tuple[tuple[int, ...], int, str]] = [((2, 8, 4, 4), 1, "relu"), ((2, 5, 16), 2, "gelu")]


class Composition(nn.Module):
    """What one would write without this project: the same mathematics from PyTorch's own operations."""

    def __init__(self, layer: stocnoise.StochasticActivation) -> None:
        super().__init__()
        self.channel_dim = layer.channel_dim
        self.activation = layer.activation
        self.register_buffer("sigma", layer.sigma.clone())
        self.register_buffer("gamma", layer.gamma.clone())

    def forward(self, x: Tensor) -> Tensor:
        shape = [-1 if d == self.channel_dim else 1 for d in range(x.dim())]
        noise = torch.randn_like(x) * (self.gamma.sqrt() * self.sigma).view(shape)
        y = self.activation(x + noise)
        if self.training:
            std = x.detach().float().std([d for d in range(x.dim()) if d != self.channel_dim])
            self.sigma.copy_(0.5 * self.sigma + 0.5 * std)
        return y


def timed(run: Callable[[], object], slow: bool = False) -> tuple[float, float, float]:
    """Median, 20 % and 80 % quantile in milliseconds."""
    if GPU:
        from triton.testing import do_bench

        median, low, high = do_bench(
            run, warmup=25 if slow else 100, rep=100 if slow else 400, quantiles=[0.5, 0.2, 0.8]
        )
        return median, low, high
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), max(times)


def implementations(layer: stocnoise.StochasticActivation, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name. `plain` is PyTorch's own activation: `torch.relu`, or the one that the layer has."""
    torch._dynamo.reset()
    composition = Composition(layer).train(layer.training)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "clone": torch.clone,
        "relu": torch.relu,
        "plain": layer.activation,
        "eager": composition,
        "ours": layer,
    }
    if GPU and compiled:
        found["compiled"] = torch.compile(composition, fullgraph=True, dynamic=False)
    return found


def prepared(name: str, run: Callable[[Tensor], Tensor], x: Tensor, step: str) -> tuple[Callable[[], object], int]:
    """What to time, and how many tensors of x's size it must move."""
    if step != "backward" or name == "clone":
        return lambda: run(x), 2
    leaf = x.detach().requires_grad_()
    y = run(leaf)
    grad = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True), 3


def measure(shapes: list[tuple[tuple[int, ...], int, str]], first: bool = False) -> Iterator[list[dict[str, Any]]]:
    """A row for each implementation, one shape, dtype, layout and pass at a time; `first`: in bf16, and few rivals."""
    for shape, channel_dim, activation in shapes:
        for dtype in (torch.bfloat16,) if first else (torch.bfloat16, torch.float32):
            for channels_last in (False, True) if len(shape) == 4 and channel_dim == 1 else (False,):
                base = torch.randn(shape, device=DEVICE, dtype=dtype)
                x = base.to(memory_format=torch.channels_last) if channels_last else base
                del base
                for step in ("forward-train", "forward-eval", "backward"):
                    same = {
                        "shape": list(shape),
                        "activation": activation,
                        "dtype": str(dtype).removeprefix("torch."),
                        "channels_last": channels_last,
                        "pass": step,
                        "mib": round(x.numel() * x.element_size() / 2**20, 1),
                    }
                    yield [{**same, **row} for row in compare(x, channel_dim, activation, step, first)]


def compare(x: Tensor, channel_dim: int, activation: str, step: str, first: bool) -> Iterator[dict[str, Any]]:
    """The implementations beside each other at one place."""
    layer = {"relu": stocnoise.StocReLUEMA, "gelu": stocnoise.StocGELUEMA}[activation](
        x.shape[channel_dim], gamma=0.1, channel_dim=channel_dim
    ).to(DEVICE)
    layer.sigma.fill_(1.0)
    layer.num_batches_tracked.fill_(1)
    layer.train(step != "forward-eval")
    copy = 0.0
    # A compilation takes seconds: for the dtype that the goals are stated in.
    rivals = implementations(layer, compiled=x.dtype == torch.bfloat16 and not first)
    for name in ("clone", "relu", "ours") if first else rivals:
        try:
            call, tensors = prepared(name, rivals[name], x, step)
            with torch.set_grad_enabled(step == "backward"):
                median, low, high = timed(call, slow=first or name in ("eager", "compiled"))
        except Exception as error:  # out of memory, a failed compilation: the others go on
            print(f"{name}, {step}, {tuple(x.shape)}, {x.dtype}: {_cause(error)!r:.200}", file=sys.stderr)
            continue
        bandwidth = tensors * x.numel() * x.element_size() / median / 1e6
        copy = bandwidth if name == "clone" else copy
        yield {
            "implementation": name,
            "ms": median,
            "ms_20": low,
            "ms_80": high,
            "gb_s": round(bandwidth, 1),
            "of_copy": round(100 * bandwidth / copy, 1) if copy else None,
        }


def _cause(error: BaseException) -> BaseException:
    """What it began with: Triton's own errors hold the whole source of the kernel."""
    return error if error.__cause__ is None else _cause(error.__cause__)


def host_overhead(calls: int = 500) -> Iterator[dict[str, Any]]:
    """Microseconds of host time a call on a small tensor, where the device is never what one waits for.

    On a CPU the arithmetic counts as well. Each figure is the least of five, as a busy machine only adds.
    """
    x = torch.randn(2, 8, 4, 4, device=DEVICE)
    leaf = x.clone().requires_grad_()
    layer = stocnoise.StocReLUEMA(8).to(DEVICE)
    layer(x)
    empty = torch.empty(1, device=DEVICE)
    relu_output, output, grad = torch.relu(leaf), layer(leaf), torch.ones_like(x)
    evaluated = deepcopy(layer).eval()
    for name, run in {
        "launch": lambda: empty.zero_(),
        "relu": lambda: torch.relu(leaf),
        "relu backward": lambda: torch.autograd.grad(relu_output, leaf, grad, retain_graph=True),
        "ours": lambda: layer(leaf),
        "ours eval": lambda: evaluated(leaf),
        "ours backward": lambda: torch.autograd.grad(output, leaf, grad, retain_graph=True),
    }.items():
        for _ in range(20):
            run()
        times = []
        for _ in range(5):
            if GPU:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls // 5):
                run()
            times.append(1e6 * (time.perf_counter() - start) / (calls // 5))
        yield {"pass": "host", "implementation": name, "us": round(min(times), 2)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--first", action="store_true", help="relu, its copy and ours alone, bf16, the six shapes that matter"
    )
    extent.add_argument("--quick", action="store_true", help="four shapes instead of all")
    parser.add_argument("--out", type=Path, default=RESULTS if GPU else None, help="append rows here")
    parser.add_argument("--plot", type=Path, help="draw the roofline here (needs Triton and matplotlib)")
    options = parser.parse_args(arguments)
    common = origin()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    shapes = (FIRST if options.first else QUICK if options.quick else SHAPES) if GPU else SMOKE
    print(kernel_report.heading(common), flush=True)
    for comparison in measure(shapes, first=options.first):
        comparison = [{**common, **row} for row in comparison]
        rows += comparison
        if options.out is not None:  # at once, lest a crash lose what was measured
            with options.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in comparison)
        print(kernel_report.line(comparison), flush=True)
    host = [{**common, **row} for row in host_overhead()]
    if options.out is not None:
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in host)
    print(kernel_report.host_line(host), flush=True)
    if options.plot is not None:
        newest = rows if options.out is None else kernel_report.newest_run(options.out)
        kernel_report.plot(newest, options.plot)


if __name__ == "__main__":
    main()
