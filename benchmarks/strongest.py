"""The strongest attack beside APGD on all images and AutoAttack `rand`: success on fresh draws, gradients, time.

    OMP_NUM_THREADS=1 python -m benchmarks.strongest [--images 100] [--epochs 8] [--save FILE]

A student of scikit-learn's digits, trained here. ASR is of images scored on fresh draws, with a 95 % interval; an
attack's own verdict is not used. Times, processor seconds of one thread, are given in units of the first row's.
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

EPS = 0.15


def student(epochs: int) -> tuple[torch.nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    scale = load_scale("digits")
    split = load(scale.data, Path())
    torch.manual_seed(0)
    made = stocnoise.convert(network(scale.network, scale.width, split.channels, split.classes), torch.rand(2, 1, 8, 8))
    loader = split.loader(64)
    stocnoise.calibrate(made, loader)
    stocnoise.finetune(made, loader, epochs=epochs, attack=PGD(eps=EPS, steps=5), seed=0, progress=False)
    return made.eval(), batches(split.test, None, 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--save", type=Path, help="write what is printed there too")
    args = parser.parse_args()
    model, data = student(args.epochs)
    attacks = {
        "APGD, 100 steps × 16 draws": APGD(steps=100, eot=16),
        "AutoAttack rand": AutoAttack(version="rand"),
        "strongest-1": "strongest-1",
    }
    lines = [f"{args.images} images, ε = {EPS}, stocnoise {stocnoise.__version__}, torch {torch.__version__}"]
    lines.append(f"{'attack':28} {'ASR on fresh draws %':>22} {'gradients/image':>16} {'time':>6}")
    first = 0.0
    for name, attack in attacks.items():
        start = time.process_time()
        report = stocnoise.evaluate(model, data, [attack], EPS, max_images=args.images, checks=False, progress=False)
        taken = time.process_time() - start
        first = first or taken
        (entry,) = report.entries
        asr = f"{100 * entry.asr.value:.1f} [{100 * entry.asr.low:.1f}, {100 * entry.asr.high:.1f}]"
        lines.append(f"{name:28} {asr:>22} {entry.gradients:16.0f} {taken / first:6.2f}")
        print(lines[-1], flush=True)
        if entry.stages:
            lines += ["", *(line for line in str(report).splitlines() if line[:1].isdigit() or "onverged" in line)]
    text = "\n".join(lines)
    print(f"\n{text}")
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
