"""How often an attacker succeeds who may only ask: success against queries, on digits.

    OMP_NUM_THREADS=1 python -m benchmarks.queries [--seeds 2] [--images 64] [--queries 200 1000 5000]

Adversarial training (AT) and a student, from the same teacher, for as many epochs. Square, Boundary and HopSkipJump at
each budget, against the student with single answers ("raw") and with as many answers to a question as serve the
attacker best; what needs no query beside them, and the strongest attack with gradients. The figures are of all seeds'
images together, with 95 % intervals over images and draws, each image of each seed counted as one. `--out` gets the
table. What is done is kept in `--rows`: a run that was broken off goes on there.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import PGD, Report
from stocnoise.evaluation.measured import Entry
from stocnoise.evaluation.rates import Successes
from stocnoise.evaluation.table import percent, table

EPS, GAMMA = 0.15, 0.1
ASKING = ("square", "boundary", "hopskipjump")


@dataclass
class Setting:
    """A teacher for each seed, and the data."""

    teacher: Callable[[int], nn.Module]
    train: TensorDataset
    test: list[tuple[Tensor, Tensor]]
    epochs: int

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=64, shuffle=True)


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

    return Setting(teacher, train, [(x[1437:][:count], y[1437:][:count])], epochs)


def trained(setting: Setting, kind: str, seed: int) -> nn.Module:
    """The teacher after adversarial training, or a student of it."""
    model = copy.deepcopy(setting.teacher(seed))
    torch.manual_seed(seed)
    if kind == "student":
        model = stocnoise.convert(model, torch.rand(2, 1, 8, 8))
        stocnoise.calibrate(model, setting.loader())
    gamma = stocnoise.GammaSchedule(0.01, GAMMA) if kind == "student" else None
    attack = PGD(eps=EPS, steps=5)
    stocnoise.finetune(
        model, setting.loader(), epochs=setting.epochs, attack=attack, gamma=gamma, seed=seed, progress=False
    )
    return model.eval()


def measured(setting: Setting, kind: str, seed: int, budgets: Sequence[int], rows: Path) -> dict[str, Report]:
    """All that is attacked without gradients of the model, then the strongest attack with them."""
    model, teacher = trained(setting, kind, seed), setting.teacher(seed).eval()
    evaluate = functools.partial(
        stocnoise.evaluate, model, setting.test, eps=EPS, checks=False, progress=False, resume=True, name=kind
    )
    rows.mkdir(parents=True, exist_ok=True)

    def path(name: str) -> Path:
        return rows / f"{kind}-{seed}-{name}.json"

    found = {
        "asked": evaluate(attacks=ASKING, queries=budgets, transfer_from=teacher, path=path("asked")),
        "strongest": evaluate(attacks="strongest", transfer_from=teacher, path=path("strongest")),
    }
    if kind == "student":
        quiet = stocnoise.revert(model)
        found["noise off"] = evaluate(attacks="transfer", transfer_from=quiet, path=path("noise-off"))
    return found


def pooled(entries: Sequence[Entry]) -> str:
    hits, weights = (torch.cat([getattr(e.successes, part) for e in entries]) for part in ("hits", "weights"))
    return percent(Successes(hits, weights).rate)


def shown(found: dict[str, list[dict[str, Report]]], budgets: Sequence[int]) -> list[str]:
    """One row for each attack and budget."""

    def cell(kind: str, which: str, key: tuple[str, float | None] | tuple[str, float | None, int]) -> list[Entry]:
        return [reports[which][key] for reports in found[kind] if which in reports]

    def row(name: str, asked: str, at: list[Entry], raw: list[Entry], best: list[Entry]) -> list[str]:
        answers = ", ".join(str(entry.answers) for entry in best if entry.answers)
        return [name, asked, *(pooled(entries) if entries else "–" for entries in (at, raw, best)), answers or "–"]

    rows = []
    for name in ASKING:
        for eps in [EPS] if name == "square" else [EPS, None]:
            for q in budgets:
                key, raw = (name, eps, q), (f"{name}-raw", eps, q)
                size = "" if eps else ", of any size"
                tried = cell("AT", "asked", key), cell("student", "asked", raw), cell("student", "asked", key)
                rows.append(row(name + size, str(q), *tried))
    for name, which, attack in (
        ("transfer from the teacher", "asked", "transfer"),
        ("transfer, its noise off", "noise off", "transfer"),
        ("strongest, with gradients", "strongest", "strongest"),
    ):
        at, student = (cell(kind, which, (attack, EPS)) for kind in ("AT", "student"))
        rows.append(row(name, "none" if attack == "transfer" else "–", at, [], student))
    head = ["attack", "queries", "AT: ASR %", "student raw: ASR %", "student: ASR %", "answers to a question"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12, help="of each training")
    parser.add_argument("--queries", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/queries.txt"))
    parser.add_argument("--rows", type=Path, default=Path("build/queries"))
    args = parser.parse_args()
    setting = digits(args.images, args.epochs)
    found: dict[str, list[dict[str, Report]]] = {"AT": [], "student": []}
    for seed in range(args.seeds):
        for kind, reports in found.items():
            reports.append(measured(setting, kind, seed, args.queries, args.rows))
            print(f"seed {seed}, {kind}\n{reports[-1]['asked']}\n", flush=True)
        clean = {kind: [each["asked"].clean.accuracy.value for each in reports] for kind, reports in found.items()}
        right = ", ".join(f"{kind} {' '.join(f'{100 * each:.1f}' for each in all_)}" for kind, all_ in clean.items())
        lines = [
            f"digits, {args.images} test images, seeds 0 to {seed}, {args.epochs} epochs, trained with PGD-5 at "
            f"ε = {EPS}, γ → {GAMMA}; ASR at ε = {EPS} in L∞ unless of any size",
            f"clean accuracy %: {right}; stocnoise {stocnoise.__version__}, torch {torch.__version__}",
            "",
            *shown(found, args.queries),
        ]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
