"""What a student's training step costs beside its teacher's: `python -m benchmarks.train_step`.

Two kinds of step: `plain` (forward, backward, optimiser) and `adversarial` (PGD first); each `eager`, `compiled`, or,
on a GPU and plain, `graphed`: captured once as a CUDA graph and replayed, which takes the host out of it. Teacher and
student take turns within each repetition, so that a slow moment hits both, and the figure is the median of the ratios.
Peak memory is that of a step, on a GPU by its allocator, on a CPU by the size of what autograd keeps from the forward
pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise

MODELS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit_s": "vit_small_patch16_224",
    "convnext_t": "convnext_tiny",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Contestant:
    """A model with its optimiser, ready for steps on one batch."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, attack: stocnoise.PGD | None, options: Any) -> None:
        self.model = model.to(x.device).train()
        if options.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.called = torch.compile(self.model) if options.mode == "compiled" else self.model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        self.x, self.y = x, y
        self.attack = attack
        self.dtype = DTYPES[options.dtype]
        self.cache_casts = options.mode != "graphed"  # as PyTorch asks where autocast is captured

    def loss(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.called(x).float(), self.y)

    def step(self) -> None:
        amp = self.dtype != torch.float32
        with torch.autocast(self.x.device.type, self.dtype, enabled=amp, cache_enabled=self.cache_casts):
            x = self.x if self.attack is None else self.attack(self.called, self.x, self.y)
            loss = self.loss(x)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def graphed(self) -> Callable[[], None]:
        """Replays the step, whose optimiser has been warmed up."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay

    def peak_memory(self) -> int:
        """Bytes."""
        if self.x.is_cuda:
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss(self.x)
        loss.backward()
        self.optimizer.zero_grad()
        return sum(kept.values())


def seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, adversarial: bool, options: Any) -> dict[str, Any]:
    device = torch.device(options.device)
    size = {} if name.startswith(("resnet", "convnext")) else {"img_size": options.image}
    teacher = timm.create_model(MODELS[name], num_classes=100, **size)
    teacher.pretrained_cfg = None  # no weights, so no normalisation that they would ask for
    x = torch.rand(options.batch, 3, options.image, options.image, device=device)
    if options.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(100, (options.batch,), device=device)
    student = stocnoise.convert(teacher, torch.rand(2, 3, options.image, options.image))
    stocnoise.calibrate(student, [torch.rand(2, 3, options.image, options.image)], batches=1)
    attack = stocnoise.PGD(eps=8 / 255, steps=options.steps) if adversarial else None
    contestants = [Contestant(model, x, y, attack, options) for model in (teacher, student)]
    for contestant in contestants:
        for _ in range(options.warmup):
            contestant.step()
    steps = [contestant.graphed() if options.mode == "graphed" else contestant.step for contestant in contestants]
    times: list[list[float]] = [[], []]
    for turn in range(options.repetitions):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            times[which].append(seconds(steps[which], device))
    del steps
    # One at a time on the device: the other's weights and gradients would count as well.
    memory = []
    for which, contestant in enumerate(contestants):
        contestants[1 - which].model.to("cpu")
        contestants[1 - which].optimizer = torch.optim.SGD(contestants[1 - which].model.parameters(), lr=0)
        contestant.model.to(device)
        contestant.optimizer = torch.optim.SGD(contestant.model.parameters(), lr=1e-4, momentum=0.9)
        contestant.step()
        memory.append(contestant.peak_memory())
    ratios = sorted(mine / other for other, mine in zip(*times, strict=True))
    return {
        "model": name,
        "step": "adversarial" if adversarial else "plain",
        "mode": options.mode,
        "teacher_ms": 1000 * statistics.median(times[0]),
        "student_ms": 1000 * statistics.median(times[1]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "memory_ratio": memory[1] / memory[0],
    }


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16" if on_gpu else "fp32")
    parser.add_argument("--batch", type=int, default=128 if on_gpu else 4)
    parser.add_argument("--image", type=int, default=224 if on_gpu else 96)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 2, help="of PGD")
    parser.add_argument("--repetitions", type=int, default=20 if on_gpu else 7)
    parser.add_argument("--warmup", type=int, default=5 if on_gpu else 2)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=on_gpu)
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled", "graphed"], default=["eager", "compiled"])
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    if not options.json:
        where = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
        print(
            f"{where}, torch {torch.__version__}, {options.dtype}, batch {options.batch}, {options.image}² pixels"
            f"{', channels-last' if options.channels_last else ''}, PGD-{options.steps}"
        )
        print(f"{'model':>10} {'step':>11} {'mode':>8}  teacher ms  student ms  time (quartiles)       memory")
    for name in options.models:
        for mode in options.modes:
            options.mode = mode
            for adversarial in (False,) if mode == "graphed" else (False, True):
                torch.compiler.reset()
                row = measure(name, adversarial, options)
                if options.json:
                    print(json.dumps(row), flush=True)
                    continue
                low, high = row["time_ratio_quartiles"]
                print(
                    f"{name:>10} {row['step']:>11} {mode:>8}  {row['teacher_ms']:10.1f}  {row['student_ms']:10.1f}  "
                    f"{row['time_ratio']:.2f} × ({low:.2f} – {high:.2f})   {row['memory_ratio']:.2f} ×",
                    flush=True,
                )


if __name__ == "__main__":
    main()
