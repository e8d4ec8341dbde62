"""A deterministic network becomes a stochastic one, and is attacked: `make demo`.

A small ResNet of timm learns scikit-learn's handwritten digits. From that teacher, adversarial training and ANIS² each
train a network for the same number of epochs; then all three are attacked. Prints a table, draws ASR against ε, and
says in a sentence what came out, whatever it is.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise.threads import choose_threads

TRAIN_EPS = 0.15  # of pixels in [0, 1]
EPS = (0.05, 0.1, 0.15, 0.2)
EOT = 5  # draws of the noise that a gradient is averaged over


def digits() -> tuple[DataLoader, DataLoader]:
    """8×8 images of handwritten digits, pixels in [0, 1]: 1,437 to train on and 360 to test on."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    train, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=data.target)
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(x[test], y[test]), batch_size=180),
    )


def small_resnet() -> nn.Module:
    """timm's ResNet-10-T, narrow and without its two halvings at the start: the images are 8×8."""
    model = timm.create_model(
        "resnet10t", in_chans=1, num_classes=10, channels=(16, 32, 64, 64), stem_type="deep", stem_width=8
    )
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def evaluated(name: str, model: nn.Module, test: DataLoader, eot: int) -> stocnoise.Report:
    """BIM, PGD and MIM at every ε, each gradient a mean over `eot` draws of the noise."""
    return stocnoise.evaluate(
        model, test, attacks=["bim", "pgd", "mim"], eps=EPS, eot=eot, steps=20, name=name, checks=False
    )


def table(reports: list[stocnoise.Report]) -> str:
    """ASR in percent: a row for each attack and ε, a column for each report."""
    width = max(len(report.model) for report in reports) + 2
    lines = [f"{'ASR %':<12}{'ε':>6}" + "".join(f"{report.model:>{width}}" for report in reports)]
    for entry in reports[0].entries:
        found = [report[entry.attack, entry.eps].asr.value for report in reports]
        lines.append(f"{entry.attack:<12}{entry.eps:>6}" + "".join(f"{100 * asr:>{width}.1f}" for asr in found))
    accuracies = "".join(f"{100 * report.clean.accuracy.value:>{width}.1f}" for report in reports)
    return "\n".join([*lines, f"{'clean accuracy %':<18}{accuracies}"])


def verdict(teacher: stocnoise.Report, robust: stocnoise.Report, student: stocnoise.Report) -> str:
    """What came out at the ε of training, in a sentence."""
    ours, theirs, undefended = (report["pgd", TRAIN_EPS].asr.value for report in (student, robust, teacher))
    rows = robust.compare(student).to_dict()["rows"]
    gap, low, high = next(row["difference"][0] for row in rows if (row["attack"], row["eps"]) == ("pgd", TRAIN_EPS))
    place = "behind" if low > 0 else "ahead of" if high < 0 else "level with"
    return (
        f"At ε = {TRAIN_EPS}, PGD turns {undefended:.1%} of the teacher's right answers wrong, and {ours:.1%} of the "
        f"student's even with EOT. Plain adversarial training stands at {theirs:.1%}: the student is {place} it "
        f"({100 * gap:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12, help="of each of the three")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"), help="the picture; figures go beside it")
    arguments = parser.parse_args()
    epochs, seed, out = arguments.epochs, arguments.seed, arguments.out
    started = time.perf_counter()
    torch.manual_seed(seed)
    train, test = digits()
    attack = stocnoise.PGD(eps=TRAIN_EPS, steps=7, step_size=TRAIN_EPS / 4)

    teacher = small_resnet()
    print(choose_threads(teacher))
    print("\nThe teacher: clean images, no noise.")
    stocnoise.finetune(teacher, train, epochs=epochs, objective="clean", seed=seed)

    print("\nAdversarial training (AT), from the teacher.")
    robust = copy.deepcopy(teacher)
    stocnoise.finetune(robust, train, epochs=epochs, objective="at", attack=attack, seed=seed)

    print("\nANIS²: the teacher converted, then adversarial training with noise that grows.")
    student = stocnoise.convert(teacher, next(iter(test))[0])
    gamma = stocnoise.GammaSchedule(init=0.01, max=0.03)
    stocnoise.finetune(student, train, epochs=epochs, objective="at", attack=attack, gamma=gamma, seed=seed)
    print(f"\n{stocnoise.summary(student)}\n")

    print("Attacks, on 360 images that nobody has trained on.")
    plain = [evaluated(n, m, test, 1) for n, m in (("teacher", teacher), ("AT", robust), ("ANIS²", student))]
    strong = evaluated(f"ANIS², EOT-{EOT}", student, test, EOT)
    reports = [*plain, strong]
    print(f"\n{table(reports)}\n")
    print(verdict(plain[0], plain[1], strong))

    out.parent.mkdir(parents=True, exist_ok=True)
    stocnoise.plot_asr(reports, attack="pgd", path=out)
    figures = out.with_suffix(".json")
    figures.write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")
    print(f"\nThe picture is {out}, the figures are {figures}. It took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
