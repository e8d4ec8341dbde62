"""What `benchmarks.kernel` measured, as a table and as a roofline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def newest_run(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["run"] == rows[-1]["run"]]


def heading(origin: dict[str, Any]) -> str:
    """Where the figures come from, and the names of the columns."""
    clocks = ", ".join(f"{name} {value}" for name, value in origin["clocks"].items())
    return (
        f"{origin['device']}, torch {origin['torch']}, triton {origin['triton']}, commit {origin['commit']}\n"
        + (f"{clocks}\n" if clocks else "")
        + f"{'shape':20} {'dtype':8} {'cl':2} {'pass':13} {'MiB':>6} {'ms':>8} {'GB/s':>6} {'of copy':>7} "
        + f"{'×relu':>7} {'eager×':>6} {'comp×':>5}"
    )


def line(comparison: list[dict[str, Any]]) -> str:
    """Ours against relu, the composition and its compilation at one place, goals marked."""
    times = {row["implementation"]: row["ms"] for row in comparison}
    if "ours" not in times:
        return "ours failed: see the errors"
    ours = next(row for row in comparison if row["implementation"] == "ours")
    factor = ours["ms"] / times.get("relu", float("nan"))
    goal = {"forward-train": 1.10, "backward": 1.05}.get(ours["pass"])
    counts = goal and ours["activation"] == "relu" and ours["dtype"] == "bfloat16" and ours["mib"] >= 256
    mark = "" if not counts else " met" if factor <= goal else f" MISSED (goal {goal:.2f})"
    rivals = [times[name] / ours["ms"] if name in times else None for name in ("eager", "compiled")]
    eager, compiled = ("-" if rival is None else f"{rival:.1f}" for rival in rivals)
    share = "-" if ours["of_copy"] is None else f"{ours['of_copy']:.1f}%"
    return (
        f"{'x'.join(map(str, ours['shape'])):20} {ours['dtype']:8} {'y' if ours['channels_last'] else '-':2} "
        f"{ours['pass']:13} {ours['mib']:6.0f} {ours['ms']:8.3f} {ours['gb_s']:6.0f} {share:>7} {factor:7.3f} "
        f"{eager:>6} {compiled:>5}{mark}"
    )


def host_line(rows: list[dict[str, Any]]) -> str:
    each = ", ".join(f"{row['implementation']} {row['us']:.1f}" for row in rows)
    return f"host µs a call, a small tensor: {each}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A roofline: bandwidth of each kernel over its instructions per byte, under what memory and issue slots allow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks import aot

    first = rows[0]
    target = "sm_{}{}".format(*(first["capability"] or (9, 0)))
    target = target if target in aot.TARGETS else "sm_90"
    # 128 lanes a processor; the clock is the boost clock of the part that the goals are stated for.
    slots = (first["processors"] or 132) * 128 * 1.98
    copy = max((r["gb_s"] for r in rows if r["implementation"] == "clone"), default=1.0)
    figure, axis = pyplot.subplots(figsize=(8, 5))
    intensity = [0.5 * 1.1**i for i in range(40)]
    axis.plot(intensity, [min(copy, slots / i) for i in intensity], "k-", label="copy bandwidth, issue slots")
    counts: dict[tuple[str, str, str, str], float] = {}
    for row in rows:
        if row["implementation"] != "ours" or row["pass"] == "host":
            continue
        layout = "channels_last" if row["channels_last"] or len(row["shape"]) == 3 else "nchw"
        dtype = {"bfloat16": "bf16", "float32": "fp32"}[row["dtype"]]
        key = (row["pass"], row["activation"], dtype, layout)
        if key not in counts:
            counts[key] = aot.count(*key, target=target).instructions_per_element
        width = {"bf16": 2, "fp32": 4}[dtype] * (3 if row["pass"] == "backward" else 2)
        marker = {"forward-train": "o", "forward-eval": "s", "backward": "^"}[row["pass"]]
        colour = "tab:blue" if layout == "nchw" else "tab:orange"
        axis.plot(counts[key] / width, row["gb_s"], marker, color=colour, alpha=0.7)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="instructions per byte",
        ylabel="GB/s",
        title=f"{first['device']}, {first['run']}",
    )
    axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
