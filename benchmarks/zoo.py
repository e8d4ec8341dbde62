"""Convert every architecture of timm and torchvision, and count by other means whether nothing was missed.

    python -m benchmarks.zoo                     # all that the results file lacks
    python -m benchmarks.zoo --families          # one model of each family first
    python -m benchmarks.zoo --shard 1/4         # a quarter, for one of four processes
    python -m benchmarks.zoo --table             # the summary of what is there

Models are built on the meta device, so that neither weights nor activations take memory; detectors, whose control flow
needs values, are small real ones. One JSON line per model:

`result`: exact (each activation call is a stochastic layer's and none is left, in train and in eval mode, and again
with another batch and image size where the model takes one), refused (with the `reason`), wrong, or not built.
`train`, `eval`: activation calls of the model, stochastic calls of the student, activation calls left in it.
`layers`: stochastic layers, each with its σ. `shared`: how many of them are called several times in one pass, because
a block with weights is, under one name. `seconds`: processor time of the conversion, on one thread its wall time where
nothing else runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

import stocnoise
from benchmarks.count import Count, count

RESULTS = Path(__file__).parent / "results" / "zoo.jsonl"


@dataclass
class Entry:
    """One architecture: how to build it, and what to call it with."""

    source: str
    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Iterator[tuple[Any, ...]]]
    """Arguments for a call: the first for the conversion, then others to try, of which the first that fits is taken."""


def entries() -> Iterator[Entry]:
    yield from _timm()
    yield from _torchvision()


def _timm() -> Iterator[Entry]:
    import timm
    from timm.models import model_entrypoint

    def inputs(model: nn.Module) -> Iterator[tuple[Any, ...]]:
        channels, height, width = model.pretrained_cfg["input_size"]
        yield (torch.empty(2, channels, height, width, device="meta"),)
        yield (torch.empty(3, channels, height + 64, width + 64, device="meta"),)
        yield (torch.empty(3, channels, height, width, device="meta"),)

    for name in timm.list_models():
        family = model_entrypoint(name).__module__.rpartition(".")[2]
        yield Entry("timm", name, family, lambda name=name: _on_meta(lambda: timm.create_model(name)), inputs)


def _torchvision() -> Iterator[Entry]:
    from torchvision import models

    def images(*sizes: int) -> Callable[[nn.Module], Iterator[tuple[Any, ...]]]:
        def inputs(model: nn.Module) -> Iterator[tuple[Any, ...]]:
            yield (torch.empty(2, 3, sizes[0], sizes[0], device="meta"),)
            yield (torch.empty(3, 3, sizes[-1], sizes[-1], device="meta"),)

        return inputs

    def clips(size: int) -> Callable[[nn.Module], Iterator[tuple[Any, ...]]]:
        return lambda model: iter([(torch.empty(batch, 3, 16, size, size, device="meta"),) for batch in (2, 3)])

    def pairs(model: nn.Module) -> Iterator[tuple[Any, ...]]:
        yield torch.empty(2, 3, 128, 128, device="meta"), torch.empty(2, 3, 128, 128, device="meta")

    def detection(model: nn.Module) -> Iterator[tuple[Any, ...]]:
        for size in (96, 128):
            target = {
                "boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]),
                "labels": torch.tensor([1]),
                "masks": torch.ones(1, size, size, dtype=torch.uint8),
                "keypoints": torch.tensor([[[30.0, 30.0, 1.0]] * 17]),
            }
            yield [torch.rand(3, size, size) for _ in range(2)], [target, target]

    def small(name: str) -> nn.Module:
        sizes = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}  # an SSD is built for one size
        return models.get_model(name, weights=None, weights_backbone=None, **sizes)

    def on_meta(name: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: _on_meta(lambda: models.get_model(name, weights=None, **options))

    for name in models.list_models(models):
        yield Entry("torchvision", name, f"tv-{_stem(name)}", on_meta(name), images(*_classification_sizes(name)))
    for name in models.list_models(models.segmentation):
        auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
        build = on_meta(name, weights_backbone=None, **auxiliary)
        yield Entry("torchvision", name, f"tv-seg-{_stem(name)}", build, images(224, 256))
    for name in models.list_models(models.video):
        size = 224 if name.startswith(("mvit", "swin", "s3d")) else 112
        yield Entry("torchvision", name, f"tv-video-{_stem(name)}", on_meta(name), clips(size))
    for name in models.list_models(models.optical_flow):
        yield Entry("torchvision", name, f"tv-flow-{_stem(name)}", on_meta(name), pairs)
    for name in models.list_models(models.detection):
        yield Entry("torchvision", name, f"tv-det-{_stem(name)}", lambda name=name: small(name), detection)


def _stem(name: str) -> str:
    return name.split("_")[0].rstrip("0123456789")


def _classification_sizes(name: str) -> tuple[int, ...]:
    if name == "inception_v3":
        return 299, 331
    return (224,) if name.startswith(("vit", "maxvit")) else (224, 256)


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.device("meta"):
            return build().to("meta")
    except NotImplementedError:  # it looks at values while it is built
        return build().to("meta")


def examine(entry: Entry) -> dict[str, Any]:
    """Build, count, convert, count again."""
    line: dict[str, Any] = {"source": entry.source, "model": entry.name, "family": entry.family}
    try:
        model = entry.build()
        first, *others = entry.inputs(model)
        before = [count(model, first, training=training) for training in (True, False)]
    except Exception as error:
        return line | {"result": "not built", "reason": _brief(error)}
    start = time.process_time()
    try:
        student = stocnoise.convert(model, first)
    except stocnoise.ConversionError as error:
        return line | {
            "result": "refused",
            "reason": _brief(error),
            "train": [before[0].activations],
            "eval": [before[1].activations],
        }
    except Exception as error:
        return line | {"result": "wrong", "reason": _brief(error)}
    line["seconds"] = round(time.process_time() - start, 2)
    layers = dict(stocnoise.stochastic_layers(student))
    next(iter(layers.values())).notice.given = True
    try:
        after = [count(student, first, training=training) for training in (True, False)]
        tried = [(before, after), _again(model, student, others)]
    except Exception as error:
        return line | {"result": "wrong", "reason": f"the student does not run: {_brief(error)}"}
    exact = all(_agree(b, a) for pair in tried for b, a in zip(*pair, strict=True))
    shared = sum(max(a.stochastic[name] for a in after) > 1 for name in layers)
    for mode, b, a in zip(("train", "eval"), before, after, strict=True):
        line[mode] = [b.activations, a.stochastic.total(), a.activations]
    return line | {"result": "exact" if exact else "wrong", "layers": len(layers), "shared": shared}


def _again(model: nn.Module, student: nn.Module, others: list[tuple[Any, ...]]) -> tuple[list[Count], list[Count]]:
    """The counts in eval mode for another input, the first of `others` that the model takes."""
    for args in others:
        try:
            before = count(model, args, training=False)
        except Exception:
            continue
        return [before], [count(student, args, training=False)]
    return [], []


def _agree(before: Count, after: Count) -> bool:
    return after.activations == 0 and after.stochastic.total() == before.activations


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def run(chosen: Iterable[Entry], path: Path) -> None:
    """Examine what `path` lacks, and append to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gc.freeze()
    gc.disable()  # a third of the time otherwise: each collection walks through all of timm and torchvision
    for entry in chosen:
        if (entry.source, entry.name) in {(line["source"], line["model"]) for line in load(path)}:
            continue  # looked up each time: another shard may write the same file
        line = examine(entry)
        with path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if line["result"] != "exact":
            print(entry.source, entry.name, line["result"], line.get("reason", line), flush=True)
        del line
        gc.collect()
        gc.freeze()


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """One row per source: how many models came out how, and what they took."""
    results = ("exact", "refused", "wrong", "not built")
    rows = [["", "models", *results, "sites", "with shared σ", "s, median", "s, max"]]
    for source in sorted({line["source"] for line in lines}):
        mine = [line for line in lines if line["source"] == source]
        counts = Counter(line["result"] for line in mine)
        seconds = sorted(line["seconds"] for line in mine if "seconds" in line) or [0.0]
        sites = sum(line.get("layers", 0) for line in mine)
        shared = sum(line.get("shared", 0) > 0 for line in mine)
        figures = [len(mine), *(counts[r] for r in results), sites, shared, seconds[len(seconds) // 2], seconds[-1]]
        rows.append([source, *map(str, figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows)


def one_per_family(every: Iterable[Entry]) -> Iterator[Entry]:
    seen: set[tuple[str, str]] = set()
    for entry in every:
        if (entry.source, entry.family) not in seen:
            seen.add((entry.source, entry.family))
            yield entry


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="convert every architecture of timm and torchvision")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th model, beginning with the i-th")
    parser.add_argument("--models", default="*", help="a glob on the names")
    parser.add_argument("--source", choices=["timm", "torchvision"], help="only this library")
    parser.add_argument("--families", action="store_true", help="only the first model of each family")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the summary of the results and stop")
    options = parser.parse_args(argv)
    if not options.table:
        warnings.simplefilter("ignore")
        index, shards = map(int, options.shard.split("/"))
        every = [entry for entry in entries() if options.source in (None, entry.source)]
        every = list(one_per_family(every)) if options.families else every
        run((e for e in every[index - 1 :: shards] if fnmatchcase(e.name, options.models)), options.results)
    lines = load(options.results)
    print(table(lines))
    return int(any(line["result"] == "wrong" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
