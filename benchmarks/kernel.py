"""Time the fused operation on a GPU beside a copy, `torch.relu`, the eager composition and its `torch.compile`.

    python -m benchmarks.kernel [--quick] [--out FILE] [--plot FILE]

Every row is a median of calls with a cold L2 cache, in milliseconds with the 20 and 80 % quantiles; GB/s count the
bytes that any implementation must move (forward x and y, backward grad, y and dx), and `of_copy` is that bandwidth in
percent of `torch.clone`'s in the same run. Rows are appended to `benchmarks/results/kernel.jsonl` with commit, versions
and device, and the plot is drawn from the newest run there. Without a GPU it runs tiny sizes, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import stocnoise
from benchmarks import kernel_report

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


def measure(shapes: list[tuple[tuple[int, ...], int, str]]) -> Iterator[dict[str, Any]]:
    classes = {"relu": stocnoise.StocReLUEMA, "gelu": stocnoise.StocGELUEMA}
    for shape, channel_dim, activation in shapes:
        for dtype in (torch.bfloat16, torch.float32):
            for channels_last in (False, True) if len(shape) == 4 and channel_dim == 1 else (False,):
                base = torch.randn(shape, device=DEVICE, dtype=dtype)
                x = base.to(memory_format=torch.channels_last) if channels_last else base
                del base
                size = x.numel() * x.element_size()
                for step in ("forward-train", "forward-eval", "backward"):
                    layer = classes[activation](shape[channel_dim], gamma=0.1, channel_dim=channel_dim).to(DEVICE)
                    layer.sigma.fill_(1.0)
                    layer.num_batches_tracked.fill_(1)
                    layer.train(step != "forward-eval")
                    copy = 0.0
                    # A compilation takes seconds: for the dtype that the goals are stated in.
                    for name, run in implementations(layer, compiled=dtype == torch.bfloat16).items():
                        try:
                            call, tensors = prepared(name, run, x, step)
                            with torch.set_grad_enabled(step == "backward"):
                                median, low, high = timed(call, slow=name in ("eager", "compiled"))
                        except Exception as error:  # out of memory, a failed compilation: the others go on
                            print(f"{name}, {step}, {shape}, {dtype}: {error!r}", file=sys.stderr)
                            continue
                        bandwidth = tensors * size / median / 1e6
                        copy = bandwidth if name == "clone" else copy
                        yield {
                            "shape": list(shape),
                            "activation": activation,
                            "dtype": str(dtype).removeprefix("torch."),
                            "channels_last": channels_last,
                            "pass": step,
                            "implementation": name,
                            "mib": round(size / 2**20, 1),
                            "ms": median,
                            "ms_20": low,
                            "ms_80": high,
                            "gb_s": round(bandwidth, 1),
                            "of_copy": round(100 * bandwidth / copy, 1),
                        }


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


def origin() -> dict[str, Any]:
    """Commit, versions and device."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent)
    properties = torch.cuda.get_device_properties(0) if GPU else None
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip(),
        "torch": torch.__version__,
        "triton": triton_version,
        "device": properties.name if properties else platform.processor() or platform.machine(),
        "processors": properties.multi_processor_count if properties else 0,
        "capability": list(torch.cuda.get_device_capability()) if GPU else None,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four shapes instead of all")
    parser.add_argument("--out", type=Path, default=RESULTS if GPU else None, help="append rows here")
    parser.add_argument("--plot", type=Path, help="draw the roofline here (needs Triton and matplotlib)")
    options = parser.parse_args(arguments)
    common = origin()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for part in (host_overhead(), measure((QUICK if options.quick else SHAPES) if GPU else SMOKE)):
        for row in part:
            rows.append({**common, **row})
            if options.out is not None:  # at once, lest a crash lose what was measured
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(kernel_report.table(rows))
    if options.plot is not None:
        newest = rows if options.out is None else kernel_report.newest_run(options.out)
        kernel_report.plot(newest, options.plot)


if __name__ == "__main__":
    main()
