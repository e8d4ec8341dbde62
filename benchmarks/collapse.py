"""Does noise in the activations prevent the collapse of training in one step?

    python -m benchmarks.collapse digits --eps 0.15 0.3 --epochs 60
    python -m benchmarks.collapse cifar10-small --data DIR --eps 0.0627 --epochs 40 --seeds 0

Adversarial training (AT) and students of several γ, at a scale of `examples/paper`, on attacks of one step: FGSM from
the image itself, FGSM-RS and N-FGSM. After each epoch PGD with 10 steps (EOT-4 on a student) attacks held-out images. A
run has collapsed when the accuracy that PGD leaves ends below half of its best, or below a quarter of what the attack
of the training leaves there. Prints a line a run and keeps it in `--out`, with a table beside it; a run that is there
is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

import stocnoise
from examples.paper import asked, images, train
from examples.paper.images import Split, batches
from examples.paper.scale import Scale
from stocnoise import PGD
from stocnoise.evaluation.table import table

# Held out, and attacked after each epoch.
IMAGES = 200
ATTACKS: dict[str, Callable[[float], PGD]] = {
    "FGSM": lambda eps: PGD(eps=eps, steps=1, step_size=eps, random_start=False),
    "FGSM-RS": PGD.fgsm_rs,
    "N-FGSM": PGD.single_step,
}


def collapsed(robust: list[float], training: float) -> bool:
    """Of the accuracy that PGD leaves after each epoch, and what the attack of the training leaves in the last one."""
    return robust[-1] < max(max(robust) / 2, training / 4)


def run(chosen: Scale, split: Split, name: str, eps: float, gamma: float, seed: int, work: Path) -> dict[str, Any]:
    """What there is to tell of one training: the scale's, but for its attack and γ."""
    model = train.teacher_of(chosen, split, seed, work)
    if gamma:
        model = stocnoise.convert(model, split.test.everything()[0][:2])
    home = train.folder(work, chosen, seed, f"collapse-{chosen.training.epochs}-{name}-{eps:g}-{gamma:g}")
    train.fine_tuned(
        model,
        chosen,
        split,
        seed,
        home,
        attack=ATTACKS[name](eps),
        gamma=stocnoise.GammaSchedule(init=min(0.01, gamma), max=gamma) if gamma else None,
        val_loader=batches(split.holdout, IMAGES, IMAGES),
        val_attack=PGD(eps=eps, steps=10, eot=4 if gamma else 1),
    )
    history = json.loads((home / "training.json").read_text())["history"]
    robust = [epoch["val_robust_accuracy"] for epoch in history]
    return {
        "attack": name,
        "eps": eps,
        "gamma": gamma,
        "seed": seed,
        "epochs": len(history),
        "clean": history[-1]["val_accuracy"],
        "training": history[-1]["robust_accuracy"],
        "best": max(robust),
        "last": robust[-1],
        "collapsed": collapsed(robust, history[-1]["robust_accuracy"]),
        "robust": robust,
        "torch": torch.__version__,
    }


def shown(lines: list[dict[str, Any]]) -> list[str]:
    """A row for each attack, ε and γ; figures are means over the seeds."""
    head = ["attack", "ε", "γ", "epochs", "seeds", "clean %", "training %", "best %", "last %", "collapsed"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["eps"], line["epochs"], line["attack"], line["gamma"]), []).append(line)

    def mean(group: list[dict[str, Any]], key: str) -> str:
        return f"{100 * sum(line[key] for line in group) / len(group):.1f}"

    rows = [
        [attack, f"{eps:.3g}", f"{gamma:g}" if gamma else "AT", str(epochs), str(len(group))]
        + [mean(group, key) for key in ("clean", "training", "best", "last")]
        + [f"{sum(line['collapsed'] for line in group)} of {len(group)}"]
        for (eps, epochs, attack, gamma), group in sorted(groups.items())
    ]
    return table(head, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.arguments(parser)
    parser.add_argument("--eps", type=float, nargs="+", required=True)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.0, 0.1, 0.3], help="0 is AT without noise")
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--out", type=Path, help="lines of JSON; default benchmarks/results/collapse/SCALE.jsonl")
    args = parser.parse_args(argv)
    chosen = asked.chosen(parser, args)
    asked.begin(parser, args, chosen)
    chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, epochs=args.epochs))
    split = images.load(chosen.data, args.data)
    out = args.out or Path("benchmarks/results/collapse") / f"{chosen.name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    keys = ("attack", "eps", "gamma", "seed", "epochs")
    for seed, eps, name, gamma in product(chosen.seeds, args.eps, args.attacks, args.gammas):
        if any(tuple(line[key] for key in keys) == (name, eps, gamma, seed, args.epochs) for line in lines):
            continue
        line = run(chosen, split, name, eps, gamma, seed, args.work)
        lines.append(line)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = f"seed {seed}, ε = {eps:g}, {name}, γ = {gamma:g}"
        print(f"{told}: {line['best']:.3f} → {line['last']:.3f}", flush=True)
    text = "\n".join(shown(lines))
    out.with_suffix(".txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
