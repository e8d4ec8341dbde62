"""What `benchmarks.kernel` measured, as a table and as a roofline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def newest_run(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["run"] == rows[-1]["run"]]


def _of(rows: list[dict[str, Any]], row: dict[str, Any], implementation: str) -> dict[str, Any]:
    """The row of another implementation at the same place."""
    same = ("shape", "activation", "dtype", "channels_last", "pass")
    found = [r for r in rows if r["implementation"] == implementation and all(r.get(k) == row.get(k) for k in same)]
    return found[0] if found else {}


def table(rows: list[dict[str, Any]]) -> str:
    """What was asked: ours against relu, the composition and its compilation, goals marked."""
    lines = [f"{'shape':20} {'dtype':8} {'cl':2} {'pass':13} {'MiB':>6} {'ms':>8} {'of copy':>7}   ×relu eager× comp×"]
    for row in rows:
        if row["implementation"] != "ours" or row["pass"] == "host":
            continue
        against = {n: _of(rows, row, n).get("ms", float("nan")) for n in ("relu", "eager", "compiled")}
        factor = row["ms"] / against["relu"]
        goal = {"forward-train": 1.10, "backward": 1.05}.get(row["pass"])
        counts = goal and row["activation"] == "relu" and row["dtype"] == "bfloat16" and row["mib"] >= 256
        mark = "" if not counts else " met" if factor <= goal else f" MISSED (goal {goal:.2f})"
        lines.append(
            f"{'x'.join(map(str, row['shape'])):20} {row['dtype']:8} {'y' if row['channels_last'] else '-':2} "
            f"{row['pass']:13} {row['mib']:6.0f} {row['ms']:8.3f} {row['of_copy']:6.1f}% {factor:7.3f} "
            f"{against['eager'] / row['ms']:6.1f} {against['compiled'] / row['ms']:5.1f}{mark}"
        )
    host = {row["implementation"]: row["us"] for row in rows if row["pass"] == "host"}
    lines.append("host µs a call, a small tensor: " + ", ".join(f"{name} {us:.1f}" for name, us in host.items()))
    return "\n".join(lines)


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
