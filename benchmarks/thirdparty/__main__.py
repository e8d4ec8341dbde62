"""Convert models of other people's libraries, and count by other means whether nothing was missed.

    python -m venv aside && aside/bin/pip install -e .[dev]
    aside/bin/pip install --no-deps -r benchmarks/thirdparty/requirements.txt
    aside/bin/python -m benchmarks.thirdparty                     # all that the results file lacks
    aside/bin/python -m benchmarks.thirdparty --library monai     # of one library
    python -m benchmarks.thirdparty --table                       # the summary of what is there

Some of these libraries pin versions of torch that are years old: so they are installed without what they ask for, which
the file lists itself. Models are built from configurations, untrained and small; those of RobustBench's zoo in their
full size without memory. Each is examined in a process of its own, with a limit of time and memory. One JSON line per
model: see `examine`; `hang` and `crash` also tell of processes that gave no answer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.thirdparty.limits import EndlessError, NoAnswerError, apart

RESULTS = Path(__file__).parents[1] / "results" / "thirdparty.jsonl"
RESULT_NAMES = ("exact", "refused", "wrong", "crash", "hang", "not built")

GROUPS = (
    "robustness",
    "vision",
    "vit",
    "segmentation",
    "text",
    "audio",
    "generation",
    "parts",
    "graphs",
    "tables",
    "science",
)
"""Files of this folder, each with `LIBRARIES`: the name of a distribution to a function that gives its entries."""


def libraries() -> Iterator[tuple[str, str]]:
    """Each distribution, and the file that its models are in."""
    for group in GROUPS:
        module = importlib.import_module(f"benchmarks.thirdparty.{group}")
        yield from ((name, group) for name in module.LIBRARIES)


def run(library: str, group: str, pattern: str, path: Path, seconds: float, gigabytes: float) -> None:
    """Examine what `path` lacks of one library, and append to it."""
    from benchmarks.thirdparty.examine import examine

    entries = []
    try:
        version = metadata.version(library)
        with silence():
            module = importlib.import_module(f"benchmarks.thirdparty.{group}")
            torch.manual_seed(0)
            entries.extend(module.LIBRARIES[library]())
    except Exception as error:  # what came before is kept
        print(library, "not available:", type(error).__name__, error, flush=True)
    known = {(line["library"], line["model"]) for line in load(path)}
    for entry in entries:
        if (library, entry.name) in known or not fnmatchcase(entry.name, pattern):
            continue
        try:
            found = apart(lambda entry=entry: silent(examine, entry), seconds, gigabytes)
        except NoAnswerError as error:
            found = {"result": "hang" if isinstance(error, EndlessError) else "crash", "reason": str(error)}
        line = {"library": library, "version": version, "model": entry.name, **found}
        with path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if line["result"] != "exact":
            print(library, entry.name, line["result"], line["reason"], flush=True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def silent(call: Any, *args: Any) -> Any:
    with silence():
        return call(*args)


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """One row per library: how many models came out how; below it the reasons."""
    rows = [["library", "version", "models", *RESULT_NAMES, "layers", "s, median", "s, max"]]
    for library in [*sorted({line["library"] for line in lines}, key=str.lower), ""]:
        mine = [line for line in lines if library in ("", line["library"])]
        counts = Counter(line["result"] for line in mine)
        seconds = sorted(line["seconds"] for line in mine if "seconds" in line) or [0.0]
        figures = [len(mine), *(counts[r] for r in RESULT_NAMES), sum(line.get("layers", 0) for line in mine)]
        version = mine[0]["version"] if library and mine else ""
        rows.append([library or "all", version, *map(str, [*figures, seconds[len(seconds) // 2], seconds[-1]])])
    text = ["| " + " | ".join(row) + " |" for row in rows]
    text.insert(1, "|---|---" + "|--:" * (len(rows[0]) - 2) + "|")
    others = [line for line in lines if line["result"] != "exact"]
    told = [f"- {line['library']} {line['model']}: {line['result']}: {line['reason']}" for line in others]
    return "\n".join([*text, "", *told])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="convert models of other people's libraries")
    parser.add_argument("--library", default="*", help="a glob on the names of distributions")
    parser.add_argument("--models", default="*", help="a glob on the names of models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=120, help="of processor time, limit for one model")
    parser.add_argument("--gigabytes", type=float, default=8, help="limit for one model")
    parser.add_argument("--table", action="store_true", help="print the summary of the results and stop")
    options = parser.parse_args(argv)
    if not options.table:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        for library, group in libraries():
            if fnmatchcase(library, options.library):
                limits = options.seconds, options.gigabytes
                arguments = (library, group, options.models, options.results, *limits)
                apart(lambda arguments=arguments: run(*arguments), 24 * 3600, 4 * options.gigabytes)
    lines = load(options.results)
    print(table(lines))
    return int(any(line["result"] in ("wrong", "crash", "hang") for line in lines))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads is not forked
    sys.exit(main())
