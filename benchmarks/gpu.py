"""`make gpu`: is it right, is it fast, what does a training step cost; in that order, and worth reading if cut off.

    python -m benchmarks.gpu [--full]

Uses the torch and triton that are there, and `stocnoise` of this checkout, installed or not. Each part is a process of
its own with a time limit, 25 minutes in all without `--full`: one that fails takes nothing with it. What they print is
kept in `benchmarks/results/DEVICE/`, and `summary.md` there is written anew after each part: device, clocks, versions,
commit, and of each part how it ended and what it found. Without a GPU the tests skip and the rest runs in tiny sizes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.origin import clocks, origin

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Part:
    """A command (`python -m …`), its time limit in minutes, and which of its lines the summary shows, at most 60."""

    name: str
    command: list[str]
    minutes: float
    shown: str = "."


@dataclass
class Outcome:
    part: Part
    ending: str
    lines: list[str]
    clocks: dict[str, str]
    """At its end, still warm: a throttled GPU shows here."""


# Of pytest with a line a test: what failed, and the count at the end.
FAILURES = r"FAILED|ERROR|Error:|\d (passed|skipped|deselected)"
# ReLU and GELU, the stream, statistics, strides, graphs: what every figure below would be worthless without.
LATER = "silu or hardswish or gelu_tanh or relu6 or leaky_relu or compile or opcheck or two_to_the_31"
KERNEL_TESTS = "tests/kernels/test_gpu.py"


def parts(full: bool, gpu: bool, results: Path) -> list[Part]:
    pytest = ["pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", "--tb=short", "--continue-on-collection-errors"]
    pytest += ["-W", "default"]  # what this machine's versions warn of is no error of ours
    if gpu and find_spec("xdist"):  # what they wait for is the compiler, on one core each
        pytest += ["-n", str(min(8, max(1, (os.cpu_count() or 1) // 2)))]
    kernel, step = ["benchmarks.kernel"], ["benchmarks.train_step"]
    right = Part("correctness", [*pytest, KERNEL_TESTS, "-k", f"not ({LATER})"], 3, FAILURES)
    later = Part("correctness of the rest", [*pytest, KERNEL_TESTS, "-k", LATER], 3, FAILURES)
    others = Part("other tests", [*pytest, "tests", "--ignore", "tests/kernels"], 3, FAILURES)
    if not gpu:
        tiny = ["--models", "resnet18", "--batch", "2", "--image", "32", "--steps", "1", "--repetitions", "1"]
        return [
            right,
            Part("relu and ours", [*kernel, "--first"], 3),
            Part("time on the gpu", ["benchmarks.gpu_time"], 3),
            Part("training step", [*step, *tiny, "--modes", "eager"], 3),
            Part("kernels", kernel, 3),
            later,
            others,
        ]
    if full:
        right.minutes, later.minutes, others.minutes = 10, 30, 30
        return [
            right,
            Part("relu and ours", [*kernel, "--first"], 10),
            Part("time on the gpu", ["benchmarks.gpu_time"], 10),
            Part("training step", step, 60),
            Part("kernels", [*kernel, "--plot", str(results / "roofline.png")], 60),
            later,
            others,
        ]
    short = ["--repetitions", "10", "--warmup", "3"]
    return [
        right,
        Part("relu and ours", [*kernel, "--first"], 2),
        Part("time on the gpu", ["benchmarks.gpu_time"], 2),
        Part("training step", [*step, *short, "--models", "resnet50", "resnet18", "--modes", "eager", "graphed"], 4),
        later,
        others,
        Part("kernels", [*kernel, "--quick", "--plot", str(results / "roofline.png")], 5),
        Part("compiled step", [*step, *short, "--models", "resnet18", "--modes", "compiled"], 3),
    ]


def run(part: Part, results: Path) -> Outcome:
    """All of what it prints goes to the terminal and to a file."""
    print(f"\n=== {part.name}: python -m {' '.join(part.command)}", flush=True)
    log = results / f"{part.name.replace(' ', '-')}.log"
    # Unbuffered, or a part that is stopped leaves no lines.
    command = ["timeout", f"{60 * part.minutes:.0f}", sys.executable, "-u", "-m", *part.command]
    # Also for the scripts that tests start.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    start = time.monotonic()
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
    code = process.returncode
    ending = {0: "ok", 124: "ran out of time"}.get(code, f"FAILED ({code})")
    lines = [line for line in log.read_text().splitlines() if re.search(part.shown, line)]
    return Outcome(part, f"{ending}, {(time.monotonic() - start) / 60:.1f} min", lines[-60:], clocks())


def summary(start: dict[str, Any], outcomes: list[Outcome], planned: list[Part]) -> str:
    """What there is to know so far, in Markdown."""
    told = [f"# {start['device']}", ""]
    told += [f"- {name}: {start[name]}" for name in ("run", "commit", "torch", "triton", "processors", "capability")]
    told += [f"- {name}: {value}" for name, value in start["clocks"].items()]
    told += ["", "| part | outcome | SM clock | temperature |", "|---|---|---|---|"]
    for outcome in outcomes:
        now = (outcome.clocks.get(name, "-") for name in ("clocks.sm", "temperature.gpu"))
        told.append(f"| {outcome.part.name} | {outcome.ending} | {' | '.join(now)} |")
    told += [f"| {part.name} | not yet run | - | - |" for part in planned[len(outcomes) :]]
    for outcome in outcomes:
        told += ["", f"## {outcome.part.name}", "", "```", *outcome.lines, "```"]
    return "\n".join(told) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every shape and model; hours")
    options = parser.parse_args(arguments)
    start = origin()
    # A folder for each device: an H200's figures don't replace an H100's.
    results = RESULTS / re.sub(r"\W+", "-", start["device"].lower()).strip("-")
    results.mkdir(parents=True, exist_ok=True)
    planned, outcomes = parts(options.full, torch.cuda.is_available(), results), []
    for part in planned:
        outcomes.append(run(part, results))
        (results / "summary.md").write_text(summary(start, outcomes, planned))
    print("\n" + summary(start, outcomes, planned))
    if not torch.cuda.is_available():
        print("no GPU: this only tried the scripts")
    return int(any(not outcome.ending.startswith("ok") for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
