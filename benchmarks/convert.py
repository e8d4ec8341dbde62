"""What a conversion costs: seconds, and memory beyond the student itself, each model in a process of its own.

    python -m benchmarks.convert [MODEL …] [--json]

`model`: MiB of weights. `inplace`: growth of the peak memory of the process by `convert(model, inplace=True)`: what
the conversion itself needs. `first`, `again`: processor seconds (a conversion runs in one thread) of the first
conversion in a process, which loads parts of PyTorch, and the median of the next three. Models beyond the limit of
memory are on the meta device (`meta`).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

MODELS = [
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet201",
    "efficientnet_b7",
    "convnext_base",
    "swin_base_patch4_window7_224",
    "vit_large_patch16_224",
    "hrnet_w64",
    "nasnetalarge",
    "vit_7b_patch16_dinov3",
]
_LIMIT = 2 << 30  # bytes of weights


def measure(name: str) -> dict[str, Any]:
    """One model, in this process."""
    import timm
    import torch

    import stocnoise

    warnings.simplefilter("ignore")
    with torch.device("meta"):
        model = timm.create_model(name)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    line: dict[str, Any] = {"name": name, "device": "meta", "model": weights / 2**20}
    if weights <= _LIMIT:
        model = timm.create_model(name)
        line["device"] = "cpu"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    student = stocnoise.convert(model, inplace=True)
    line["first"] = time.process_time() - start
    line["inplace"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    line["sites"] = len(list(stocnoise.stochastic_layers(student)))
    seconds = []
    for _ in range(3):
        model = stocnoise.revert(student, inplace=True)
        start = time.process_time()
        student = stocnoise.convert(model, inplace=True)
        seconds.append(time.process_time() - start)
    line["again"] = statistics.median(seconds)
    return line


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="seconds and memory of a conversion")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    options = parser.parse_args(argv)
    if options.here:
        print(json.dumps(measure(options.models[0])))
        return 0
    if not options.json:
        print(f"{'':30}{'sites':>6}{'MiB':>8}{'device':>8}{'first s':>9}{'again s':>9}{'inplace MiB':>13}")
    for name in options.models:
        command = [sys.executable, "-m", "benchmarks.convert", name, "--here"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        line = json.loads(text)
        if options.json:
            print(text, flush=True)
        else:
            figures = f"{line['first']:9.2f}{line['again']:9.2f}{line['inplace']:13.0f}"
            print(f"{name:30}{line['sites']:6}{line['model']:8.0f}{line['device']:>8}{figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
