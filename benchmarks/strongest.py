"""The strongest attack beside APGD on all images and AutoAttack `rand`: success on fresh draws, gradients, time.

    OMP_NUM_THREADS=1 python -m benchmarks.strongest [--images 250] [--epochs 8] [--save FILE]

A student of scikit-learn's digits, trained here. ASR is of images scored on fresh draws, with a 95 % interval; an
attack's own verdict is not used. Times are processor seconds of one thread, and in units of the first row's. Some
four minutes in all; a row is printed, and saved, as soon as it is known.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import stocnoise
from examples.paper.images import batches, load
from examples.paper.networks import network
from examples.paper.scale import load as load_scale
from stocnoise import APGD, PGD, AutoAttack
from stocnoise.evaluation.stage_table import stage_lines

EPS = 0.15
STEPS = 5


def student(epochs: int) -> tuple[torch.nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    scale = load_scale("digits")
    split = load(scale.data, Path())
    torch.manual_seed(0)
    made = stocnoise.convert(network(scale.network, scale.width, split.channels, split.classes), torch.rand(2, 1, 8, 8))
    loader = split.loader(64)
    stocnoise.calibrate(made, loader)
    stocnoise.finetune(made, loader, epochs=epochs, attack=PGD(eps=EPS, steps=STEPS), seed=0, progress=False)
    return made.eval(), batches(split.test, None, 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--save", type=Path, help="write what is printed there too")
    args = parser.parse_args()
    model, data = student(args.epochs)
    attacks = {
        "APGD, 100 steps × 16 draws": APGD(steps=100, eot=16),
        "AutoAttack rand": AutoAttack(version="rand"),
        "strongest-1": "strongest-1",
    }
    lines = [
        f"digits, {args.images} test images, a student of {args.epochs} epochs of adversarial training (PGD-{STEPS}), "
        f"L∞ ε = {EPS}; stocnoise {stocnoise.__version__}, torch {torch.__version__}",
        "",
        f"{'attack':26} {'ASR on fresh draws %':>22} {'gradients/image':>16} {'seconds':>8} {'time':>6}",
    ]
    print("\n".join(lines), flush=True)

    def say(*more: str) -> None:
        lines.extend(more)
        print("\n".join(more), flush=True)
        if args.save:
            args.save.write_text("\n".join(lines) + "\n")

    first = 0.0
    for name, attack in attacks.items():
        start = time.process_time()
        report = stocnoise.evaluate(model, data, [attack], EPS, max_images=args.images, checks=False, progress=False)
        taken = time.process_time() - start
        first = first or taken
        (entry,) = report.entries
        asr = f"{100 * entry.asr.value:.1f} [{100 * entry.asr.low:.1f}, {100 * entry.asr.high:.1f}]"
        say(f"{name:26} {asr:>22} {entry.gradients:16.0f} {taken:8.1f} {taken / first:6.2f}")
        if entry.stages:
            say("", *stage_lines(entry)[:-1])


if __name__ == "__main__":
    main()
