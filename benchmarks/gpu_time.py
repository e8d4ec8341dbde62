"""How long the GPU itself works for a layer, kernel by kernel: `python -m benchmarks.gpu_time`.

What `benchmarks.kernel` times begins with the call, so that a slow host hides the kernels behind itself. Here
torch.profiler tells the time of each kernel, with the L2 cache emptied before each call: µs, medians, beside those of
`torch.relu` and of a copy. `train` is the main kernel of a training forward; `merge` and `move` follow it.
Without a GPU it runs tiny sizes, to try the script itself, and shows no times.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.kernel import DEVICE, FIRST, GPU, SMOKE
from benchmarks.origin import origin
from stocnoise.activations import Activation, Operation
from stocnoise.implementation import implementation

CALLS = 6
# Larger than any L2 cache.
_CACHE = 1 << 28

COLUMNS = ("relu", "copy", "eval", "train", "merge", "move", "backward")
_PARTS = {"merge_parts": "merge", "move_sigma": "move"}


def on_the_gpu(run: Callable[[], object]) -> dict[str, float]:
    """Median µs of each kernel that `run` launches, by name; nothing without a GPU."""
    run()
    if not GPU:
        return {}
    cache = torch.empty(_CACHE, dtype=torch.uint8, device=DEVICE)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(CALLS):
            cache.fill_(1)
            run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA and "fill" not in event.name.lower():
            found[event.name].append(event.device_time)
    # Once a call, or it is no kernel of this one.
    return {name: statistics.median(times) for name, times in found.items() if len(times) == CALLS}


def measure(x: Tensor, channel_dim: int, activation: str) -> dict[str, float]:
    """µs under each of `COLUMNS`."""
    ours = implementation(x)
    channels = x.shape[channel_dim]
    operation = Operation(Activation(activation), channel_dim, shared=False)
    sigma, before = torch.ones(2, channels, device=DEVICE)
    gamma, batches = torch.tensor(0.1, device=DEVICE), torch.tensor(1, device=DEVICE)
    seed = torch.tensor([5], device=DEVICE)
    y, _, scale = ours.forward(x, sigma, gamma, seed, operation, False)
    grad = torch.ones_like(y)

    def train() -> None:
        _, moments, _ = ours.forward(x, sigma, gamma, seed, operation, True)
        ours.update_sigma(sigma, before, batches, moments.unsqueeze(0), 0.5)

    def backward() -> Tensor:
        if operation.activation.output_decides:
            return ours.backward_from_output(grad, y, operation.activation)
        return ours.backward(grad, x, scale, seed, operation)

    found = {
        "relu": sum(on_the_gpu(lambda: torch.relu(x)).values()),
        "copy": sum(on_the_gpu(x.clone).values()),
        "eval": sum(on_the_gpu(lambda: ours.forward(x, sigma, gamma, seed, operation, False)).values()),
        "backward": sum(on_the_gpu(backward).values()),
    }
    for name, time in on_the_gpu(train).items():
        part = _PARTS.get(name, "train")
        found[part] = found.get(part, 0.0) + time
    return found


def main() -> None:
    about = origin()
    print(f"{about['device']}, torch {about['torch']}, triton {about['triton']}, commit {about['commit']}")
    print(f"{'shape':20} {'':2} {'h':5} {'dtype':9}" + "".join(f"{name:>9}" for name in COLUMNS), flush=True)
    for dtype in (torch.bfloat16, torch.float32):
        for shape, channel_dim, activation in FIRST if GPU else SMOKE:
            for last in (False, True) if len(shape) == 4 and channel_dim == 1 else (False,):
                x = torch.randn(shape, device=DEVICE, dtype=dtype)
                x = x.contiguous(memory_format=torch.channels_last) if last else x
                times = measure(x, channel_dim, activation)
                told = "".join(f"{times.get(name) or '-':>9.4}" for name in COLUMNS)
                name = f"{'x'.join(map(str, shape)):20} {'cl' if last else '':2} {activation:5}"
                print(f"{name} {str(dtype).removeprefix('torch.'):9}{told}", flush=True)


if __name__ == "__main__":
    main()
