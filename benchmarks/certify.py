"""Certified accuracy of one network, made to bear noise on its input in five ways, at a scale of `examples/paper`.

    python -m benchmarks.certify digits
    python -m benchmarks.certify cifar10-small --data DIR
    python -m benchmarks.certify cifar10-pretrained --data DIR --teacher FILE

`plain` the teacher behind the noise; `adapted` its BatchNorm fed with noise, nothing trained; `AT, adapted` adversarial
training without noise, then the same; `Gaussian` trained through the noise; `SmoothAdv` adversarially trained through
it. All from the teacher, with the scale's epochs, the L2 attacks of ε = 2σ. Prints a table; `--out` gets it with the
figures and, of the first seed, a picture for each σ. Networks and certificates are kept in `--work`, and a run that was
broken off goes on there. A scale trained under autocast is certified so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

import stocnoise
from examples.paper import asked, images, train
from examples.paper.images import Split
from examples.paper.scale import Scale
from stocnoise import PGD, Certificate
from stocnoise.attacks.losses import mean_probability
from stocnoise.evaluation.table import table

METHODS = ("plain", "adapted", "AT, adapted", "Gaussian", "SmoothAdv")

STEPS, DRAWS = 4, 2
"""Of the L2 attack of AT; SmoothAdv has half the steps with so many draws: both cost five passes an image."""

_PIXELS = 100_000
"""In a pass of noisy copies: on a CPU as many as its caches hold."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where teachers and images come from, and where what is made of them is kept."""

    scale: Scale
    split: Split
    work: Path

    def home(self, method: str, sigma: float, seed: int) -> Path:
        return train.folder(self.work, self.scale, seed, f"certify-{method.replace(', ', '-')}-{sigma:g}")

    def student(self, method: str, sigma: float, seed: int) -> nn.Module:
        """The teacher behind noise, as `method` makes it bear it."""
        model = train.teacher_of(self.scale, self.split, seed, self.work)
        noisy = stocnoise.with_input_noise(model, sigma)
        asked: dict[str, dict[str, Any]] = {
            "AT, adapted": {"objective": "at", "attack": PGD(norm="l2", eps=2 * sigma, steps=STEPS)},
            "Gaussian": {"objective": "clean"},
            "SmoothAdv": {
                "objective": "at",
                "attack": PGD(norm="l2", eps=2 * sigma, steps=STEPS // DRAWS, eot=DRAWS, loss=mean_probability),
            },
        }
        if method in asked:
            taught = model if method.endswith("adapted") else noisy
            train.fine_tuned(taught, self.scale, self.split, seed, self.home(method, sigma, seed), **asked[method])
        if method.endswith("adapted"):
            torch.manual_seed(seed)
            settings = self.scale.training
            stocnoise.adapt_batch_norm(noisy, self.split.loader(settings.batch_size, self.scale.data.workers))
        return noisy.eval()

    def certificate(self, method: str, sigma: float, seed: int, count: int, n: int) -> Certificate:
        """From its file, as far as that goes."""
        noisy = self.student(method, sigma, seed)
        home = self.home(method, sigma, seed)
        home.mkdir(parents=True, exist_ok=True)
        if self.scale.training.channels_last:
            noisy.to(memory_format=torch.channels_last)
        size = self.scale.data.image_size
        return stocnoise.certify(
            noisy,
            images.batches(self.split.test, count, 20),
            n=n,
            batch=max(100, _PIXELS // size**2),
            precision=self.scale.training.precision,
            seed=seed,
            name=method,
            path=home / f"certificate-{count}-{n}.json",
            resume=True,
            progress=False,
        )


def figures(found: list[Certificate], method: str, sigma: float) -> dict[str, Any]:
    """Of a method at one σ, a list entry for each seed."""
    return {
        "method": method,
        "sigma": sigma,
        "seeds": len(found),
        "images": len(found[0].rows),
        "n": found[0].settings["n"],
        "alpha": found[0].settings["alpha"],
        "precision": found[0].settings["precision"],
        "certified": {f"{r:g} sigma": [c.accuracy(r * sigma) for c in found] for r in (0.0, 0.5, 1.0, 1.5, 2.0)},
        "average_radius": [c.average_radius for c in found],
        "abstained": [c.abstained for c in found],
    }


def shown(results: list[dict[str, Any]]) -> str:
    """Mean over seeds, and the standard deviation where there are several."""

    def cell(values: list[float], factor: float, digits: int) -> str:
        scaled = [factor * value for value in values]
        spread = f" ±{statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
        return f"{statistics.mean(scaled):.{digits}f}{spread}"

    radii = list(results[0]["certified"])
    head = ["method", "σ", "seeds", *(f"≥ {r.replace(' sigma', 'σ')}" for r in radii), "mean radius", "abstained"]
    rows = [
        [
            each["method"],
            f"{each['sigma']:g}",
            str(each["seeds"]),
            *(cell(each["certified"][r], 100, 1) for r in radii),
            cell(each["average_radius"], 1, 3),
            cell(each["abstained"], 100, 1),
        ]
        for each in results
    ]
    about = results[0]
    note = (
        f"certified accuracy in % at L2 radii in σ, {about['images']} images, n = {about['n']}, "
        f"α = {about['alpha']:g}; ± standard deviation over seeds"
    )
    return "\n".join([*table(head, rows), note])


def write(name: str, kept: dict[tuple[str, float], list[Certificate]], out: Path) -> str:
    results = [figures(found, *key) for key, found in sorted(kept.items(), key=lambda item: item[0][1])]
    out.mkdir(parents=True, exist_ok=True)
    about = {"torch": torch.__version__, "stocnoise": stocnoise.__version__}
    (out / f"{name}.json").write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    (out / f"{name}.txt").write_text(shown(results) + "\n")
    for sigma in {key[1] for key in kept}:
        first = [found[0] for key, found in kept.items() if key[1] == sigma]
        stocnoise.plot_certificates(first, out / f"{name}-{sigma:g}.png", f"{name}, σ = {sigma:g}")
    return shown(results)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.arguments(parser)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.12, 0.25])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--n", type=int, default=1000, help="draws for each bound")
    parser.add_argument("--count", type=int, default=300, help="test images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/certify"))
    args = parser.parse_args(argv)
    chosen = asked.chosen(parser, args)
    asked.begin(parser, args, chosen)
    data = chosen.data if chosen.data.test_images is None else dataclasses.replace(chosen.data, test_images=args.count)
    chosen = dataclasses.replace(chosen, data=data)
    setting = Setting(chosen, images.load(chosen.data, args.data), args.work)
    kept: dict[tuple[str, float], list[Certificate]] = {}
    for seed in chosen.seeds:
        for sigma in args.sigma:
            for method in args.methods:
                found = setting.certificate(method, sigma, seed, args.count, args.n)
                kept.setdefault((method, sigma), []).append(found)
                text = write(chosen.name, kept, args.out)
                print(f"seed {seed}, σ = {sigma:g}, {method}: mean radius {found.average_radius:.3f}", flush=True)
    print(text)


if __name__ == "__main__":
    main()
