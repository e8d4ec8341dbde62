"""The layer on a CPU beside the obvious composition and ReLU: `python -m benchmarks.cpu`.

The competitors take turns, so that a slow moment hits all of them; medians and quartiles over the turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from stocnoise import StocReLUEMA


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=4, default=(64, 64, 32, 32), metavar=("N", "C", "H", "W"))
    parser.add_argument("--turns", type=int, default=40)
    arguments = parser.parse_args()
    x = torch.randn(*arguments.shape)
    layer = StocReLUEMA(x.shape[1], gamma=0.1)
    sigma, gamma = torch.ones(x.shape[1]), torch.tensor(0.1)
    layer(x)
    print(f"{tuple(x.shape)} float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':>22}  {'median ms':>9}  {'quartiles':>13}  {'of the obvious':>14}")
    for mode in ("train", "eval"):
        layer.train(mode == "train")
        functions: dict[str, Callable[[], object]] = {
            "obvious": lambda mode=mode: obvious(x, sigma, gamma, mode == "train"),
            "stocnoise": lambda: layer(x),
            "torch.relu": lambda: torch.relu(x),
        }
        result = timed(functions, arguments.turns)
        base = result["obvious"].median()
        for name, seconds in result.items():
            low, median, high = (1000 * seconds.quantile(q).item() for q in (0.25, 0.5, 0.75))
            ratio = (base / seconds.median()).item()
            print(f"{mode + ' ' + name:>22}  {median:9.2f}  {low:5.2f} – {high:5.2f}  {ratio:12.2f} ×")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
