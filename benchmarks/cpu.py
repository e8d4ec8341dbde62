"""The layer on a CPU beside the obvious composition and ReLU: `python -m benchmarks.cpu`.

Once for each condition: one thread and two, alone and beside busy neighbours (as many processes as there are cores,
each of one thread), with the processor's widest instructions and with AVX2 alone. A condition is a process of its own.
The competitors take turns, so that a slow moment hits all of them; medians and quartiles over the turns. Beside busy
neighbours a call is put off or not, so that a median is either: there the ratio of all turns together says more.

Run it where nothing else does: what is called quiet is only then so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stocnoise import StocReLUEMA

_NEIGHBOUR = "import torch; torch.set_num_threads(1); x = torch.randn(1 << 22)\nwhile True: x.exp()"


def obvious(x: Tensor, sigma: Tensor, gamma: Tensor, training: bool) -> Tensor:
    """The method written down as it reads."""
    scale = gamma.sqrt() * sigma.view(1, -1, 1, 1)
    y = torch.relu(x + scale * torch.randn_like(x))
    if training:
        sigma.copy_(0.5 * sigma + 0.5 * x.std((0, 2, 3)))
    return y


def timed(functions: dict[str, Callable[[], object]], turns: int) -> dict[str, Tensor]:
    """Seconds of each function in each turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(turns + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 2:  # two turns to warm up
                times[name].append(time.perf_counter() - start)
    return {name: torch.tensor(seconds) for name, seconds in times.items()}


def measured(shape: tuple[int, ...], turns: int) -> Iterator[dict[str, object]]:
    """Milliseconds of each competitor in this process: quartiles, and how much faster than the obvious one."""
    x = torch.randn(*shape)
    layer = StocReLUEMA(x.shape[1], gamma=0.1)
    sigma, gamma = torch.ones(x.shape[1]), torch.tensor(0.1)
    layer(x)
    for mode in ("train", "eval"):
        layer.train(mode == "train")
        functions: dict[str, Callable[[], object]] = {
            "obvious": lambda mode=mode: obvious(x, sigma, gamma, mode == "train"),
            "stocnoise": lambda: layer(x),
            "torch.relu": lambda: torch.relu(x),
        }
        result = timed(functions, turns)
        base, total = result["obvious"].median(), result["obvious"].sum()
        for name, seconds in result.items():
            quartiles = (1000 * seconds.quantile(torch.tensor([0.25, 0.5, 0.75]))).tolist()
            ratios = {"ratio": (base / seconds.median()).item(), "of_totals": (total / seconds.sum()).item()}
            yield {"mode": mode, "name": name, "ms": quartiles, **ratios}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that are busy."""
    running = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) for _ in range(count)]
    try:
        if running:
            time.sleep(5)  # torch takes that long to be imported
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def condition(threads: int, busy: bool, capability: str, shape: tuple[int, ...], turns: int) -> list[dict[str, object]]:
    """`measured` in a process of its own, under this condition; "" leaves the processor its widest instructions."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    command = [sys.executable, "-m", "benchmarks.cpu", "--one", "--turns", str(turns), "--shape", *map(str, shape)]
    with neighbours((os.cpu_count() or 1) if busy else 0):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=4, default=(64, 64, 32, 32), metavar=("N", "C", "H", "W"))
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", action="store_true", help="measure in this process, as it is, and print JSON")
    arguments = parser.parse_args(argv)
    shape = tuple(arguments.shape)
    if arguments.one:
        with torch.no_grad():
            print(*map(json.dumps, measured(shape, arguments.turns)), sep="\n")
        return
    widest = torch.backends.cpu.get_cpu_capability()
    print(f"{shape} float32, torch {torch.__version__}, {os.cpu_count()} cores, {widest}; medians, ms")
    print(f"{'':>32}  {'obvious':>8}  {'stocnoise':>9}  {'quartiles':>15}  {'ratio':>7}  {'of all':>7}  {'relu':>6}")
    for capability in dict.fromkeys(["", "avx2"] if widest != "AVX2" else [""]):
        for threads in arguments.threads:
            for busy in (False, True):
                lines = condition(threads, busy, capability, shape, arguments.turns)
                how = f"{threads} threads, {'busy' if busy else 'quiet'}, {capability or 'widest'}"
                for mode in ("train", "eval"):
                    found = {line["name"]: line for line in lines if line["mode"] == mode}
                    base, ours, relu = (found[name]["ms"] for name in ("obvious", "stocnoise", "torch.relu"))
                    ratio, of_totals = (found["stocnoise"][name] for name in ("ratio", "of_totals"))
                    print(
                        f"{how + ', ' + mode:>32}  {base[1]:8.2f}  {ours[1]:9.2f}  {ours[0]:6.2f} – {ours[2]:6.2f}"
                        f"  {ratio:5.2f} ×  {of_totals:5.2f} ×  {relu[1]:6.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
