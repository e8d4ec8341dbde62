"""Certified accuracy of one network, made to bear noise on its input in five ways.

    python -m benchmarks.certify                                             # digits: trains its own teacher
    python -m benchmarks.certify --weights FILE --images DIR [--epochs 3]    # a pretrained ResNet-20 for CIFAR

`plain` the teacher behind the noise; `adapted` its BatchNorm fed with noise, nothing trained; `AT, adapted` adversarial
training without noise, then the same; `Gaussian` trained through the noise; `SmoothAdv` adversarially trained through
it. All from the teacher, with as many epochs; ε of the L2 attacks is 2σ. Prints a table; `--out` gets it with the
figures and a picture for each σ (seed 0). Certificates are kept in `--rows`: a run that was broken off goes on there.

FILE: safetensors with the keys of github.com/akamaster/pytorch_resnet_cifar10. DIR: `train` and `test` as torchvision's
ImageFolder has them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import PGD, Certificate
from stocnoise.attacks.losses import mean_probability
from stocnoise.evaluation.table import table

UNTRAINED = ("plain", "adapted")
METHODS = (*UNTRAINED, "AT, adapted", "Gaussian", "SmoothAdv")


@dataclass
class Setting:
    """A teacher for each seed, and the data."""

    name: str
    teacher: Callable[[int], nn.Module]
    train: TensorDataset
    test: list[tuple[Tensor, Tensor]]
    epochs: int
    lr: float | None
    batch: int
    """Noisy copies in a pass: on a CPU as many as its caches hold."""

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def student(self, method: str, sigma: float, seed: int) -> nn.Module:
        """The teacher behind noise, as `method` makes it bear it."""
        model = copy.deepcopy(self.teacher(seed))
        torch.manual_seed(seed)
        noisy = stocnoise.with_input_noise(model, sigma)
        attack = PGD(norm="l2", eps=2 * sigma, steps=4)
        given: dict[str, Any] = {"epochs": self.epochs, "seed": seed, "lr": self.lr, "progress": False}
        if method == "AT, adapted":
            stocnoise.finetune(model, self.loader(), objective="at", attack=attack, **given)
        elif method == "Gaussian":
            stocnoise.finetune(noisy, self.loader(), objective="clean", **given)
        elif method == "SmoothAdv":
            smooth = PGD(norm="l2", eps=2 * sigma, steps=4, eot=4, loss=mean_probability)
            stocnoise.finetune(noisy, self.loader(), objective="at", attack=smooth, **given)
        if method.endswith("adapted"):
            stocnoise.adapt_batch_norm(noisy, self.loader())
        return noisy.eval()


def digits(count: int, epochs: int) -> Setting:
    """scikit-learn's 8×8 digits, 1,437 to train on, and a small network that learns them first."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)[order] / 16
    y = torch.tensor(data.target)[order]
    train = TensorDataset(x[:1437], y[:1437])

    @functools.cache
    def teacher(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(256, 10)),
        )
        loader = DataLoader(train, batch_size=64, shuffle=True)
        stocnoise.finetune(net, loader, epochs=epochs, objective="clean", seed=seed, progress=False)
        return net

    test = [(x[1437:][:count], y[1437:][:count])]
    return Setting("digits", teacher, train, test, epochs, None, 1000)


class Block(nn.Module):
    """Two 3×3 convolutions beside what came in, thinned and padded with zeros where the shape changes (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        beside = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(out + beside)


class ResNet20(nn.Module):
    """He et al., CVPR 2016, section 4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(out.mean((2, 3)))


def cifar(weights: Path, images: Path, count: int, epochs: int) -> Setting:
    """A pretrained ResNet-20, and the CIFAR-10 of a folder."""
    from safetensors.torch import load_file
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    net = ResNet20()
    found = net.load_state_dict(load_file(weights), strict=False)
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys) and not found.unexpected_keys

    def read(split: str, most: int) -> tuple[Tensor, Tensor]:
        folder = ImageFolder(images / split)
        which = torch.linspace(0, len(folder) - 1, min(most, len(folder))).long().tolist()
        x = torch.stack([pil_to_tensor(folder[i][0]).float() / 255 for i in which])
        return x, torch.tensor([folder[i][1] for i in which])

    net = net.to(memory_format=torch.channels_last)
    teacher = stocnoise.normalized(net, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    train = TensorDataset(*read("train", 50_000))
    x, y = read("test", count)
    test = list(zip(x.split(20), y.split(20), strict=True))
    return Setting("resnet20", lambda seed: teacher, train, test, epochs, 1e-2, 100)


def measured(setting: Setting, method: str, sigma: float, seed: int, n: int, rows: Path) -> Certificate:
    """From its file, if it is whole; else made."""
    path = rows / f"{setting.name}-{method.replace(', ', '-')}-{sigma:g}-{seed}.json"
    whole = path.with_suffix(".done")
    if whole.exists():
        return Certificate.load(path)
    student = setting.student(method, sigma, seed)
    found = stocnoise.certify(
        student, setting.test, n=n, batch=setting.batch, seed=seed, name=method, path=path, resume=True, progress=False
    )
    whole.touch()
    return found


def figures(found: list[Certificate], method: str, sigma: float) -> dict[str, Any]:
    """Of a method at one σ, a list entry for each seed."""
    return {
        "method": method,
        "sigma": sigma,
        "seeds": len(found),
        "images": len(found[0].rows),
        "n": found[0].settings["n"],
        "alpha": found[0].settings["alpha"],
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
    lines = table(head, rows)
    note = (
        f"certified accuracy in % at L2 radii in σ, {about['images']} images, n = {about['n']}, "
        f"α = {about['alpha']:g}; ± standard deviation over seeds"
    )
    return "\n".join([*lines, note])


def write(setting: Setting, kept: dict[tuple[str, float], list[Certificate]], out: Path, seconds: float) -> str:
    results = [figures(found, *key) for key, found in sorted(kept.items(), key=lambda item: item[0][1])]
    out.mkdir(parents=True, exist_ok=True)
    about = {"torch": torch.__version__, "stocnoise": stocnoise.__version__, "seconds": round(seconds)}
    (out / f"{setting.name}.json").write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    (out / f"{setting.name}.txt").write_text(shown(results) + "\n")
    for sigma in {key[1] for key in kept}:
        first = [found[0] for key, found in kept.items() if key[1] == sigma]
        path = out / f"{setting.name}-{sigma:g}.png"
        stocnoise.plot_certificates(first, path, f"{setting.name}, σ = {sigma:g}")
    return shown(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="of a ResNet-20, instead of digits")
    parser.add_argument("--images", type=Path, help="folder with train and test")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.12, 0.25])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--n", type=int, default=1000, help="draws for each bound")
    parser.add_argument("--count", type=int, default=300, help="test images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/certify"))
    parser.add_argument("--rows", type=Path, default=Path("build/certify"))
    args = parser.parse_args()
    if (args.weights is None) != (args.images is None):
        parser.error("--weights and --images belong together")
    if args.weights is None:
        setting = digits(args.count, args.epochs)
    else:
        setting = cifar(args.weights, args.images, args.count, args.epochs)
    started = time.perf_counter()
    kept: dict[tuple[str, float], list[Certificate]] = {}
    for seed in range(args.seeds):
        for sigma in args.sigma:
            for method in args.methods:
                found = measured(setting, method, sigma, seed, args.n, args.rows)
                kept.setdefault((method, sigma), []).append(found)
                text = write(setting, kept, args.out, time.perf_counter() - started)
                print(f"seed {seed}, σ = {sigma:g}, {method}: mean radius {found.average_radius:.3f}", flush=True)
    print(text)


if __name__ == "__main__":
    main()
