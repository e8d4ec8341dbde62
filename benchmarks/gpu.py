"""`make gpu`: the tests that need a GPU, the kernels and a training step beside their rivals; a summary comes last.

    python -m benchmarks.gpu [--full]

Uses the torch and triton that are there, and `stocnoise` of this checkout, installed or not. Each part is
a process of its own with a time limit, 23 minutes in all without `--full`: one that fails takes nothing with it. What
they print is kept in `benchmarks/results/gpu-*.log`. Without a GPU the tests skip and the rest runs in tiny sizes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Part:
    """A command (`python -m …`), its time limit in minutes, and how many of its last lines the table shows."""

    name: str
    command: list[str]
    minutes: float
    lines: int = 1


def parts(full: bool, gpu: bool) -> list[Part]:
    pytest = ["pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    kernel = ["benchmarks.kernel", "--plot", str(RESULTS / "roofline.png")]
    step = ["benchmarks.train_step"]
    tiny = ["--models", "resnet18", "--batch", "2", "--image", "32", "--steps", "1", "--repetitions", "1"]
    if not gpu:
        return [
            Part("tests of the kernels", [*pytest, "tests/kernels"], 3),
            Part("other tests", [*pytest, "tests", "--ignore", "tests/kernels"], 3),
            Part("kernels", kernel[:1], 3, lines=14),
            Part("training step", [*step, *tiny, "--modes", "eager"], 3, lines=3),
        ]
    if full:
        return [
            Part("tests of the kernels", [*pytest, "tests/kernels"], 30),
            Part("other tests", [*pytest, "tests", "--ignore", "tests/kernels"], 30),
            Part("kernels", kernel, 60, lines=50),
            Part("training step", step, 60, lines=18),
        ]
    short = ["--repetitions", "10", "--warmup", "3"]
    return [
        Part("tests of the kernels", [*pytest, "tests/kernels"], 5),
        Part("kernels", [*kernel, "--quick"], 8, lines=45),
        Part("training step", [*step, *short, "--models", "resnet18", "resnet50", "--modes", "eager"], 3, lines=6),
        Part("compiled step", [*step, *short, "--models", "resnet18", "--modes", "compiled"], 4, lines=4),
        Part("other tests", [*pytest, "tests", "--ignore", "tests/kernels"], 3),
    ]


def run(part: Part) -> tuple[str, list[str]]:
    """How it ended, and its last lines; all of what it prints goes to the terminal and to a file."""
    print(f"\n=== {part.name}: python -m {' '.join(part.command)}", flush=True)
    log = RESULTS / f"gpu-{part.name.replace(' ', '-')}.log"
    # Unbuffered, or a part that is stopped leaves no lines.
    command = ["timeout", f"{60 * part.minutes:.0f}", sys.executable, "-u", "-m", *part.command]
    # Also for the scripts that tests start.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    code = process.wait()
    outcome = {0: "ok", 124: "ran out of time"}.get(code, f"FAILED ({code})")
    return f"{outcome}, {(time.monotonic() - start) / 60:.1f} min", log.read_text().splitlines()[-part.lines :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every shape and model; hours")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.is_available()
    outcomes = [(part, *run(part)) for part in parts(options.full, gpu)]
    print(f"\n=== {torch.cuda.get_device_name() if gpu else 'no GPU: this only tried the scripts'}")
    for part, outcome, lines in outcomes:
        print(f"{part.name}: {outcome}")
        print(*(f"    {line}" for line in lines), sep="\n")
    return int(any(not outcome.startswith("ok") for _, outcome, _ in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
