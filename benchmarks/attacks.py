"""Speed of the attacks beside a bare loop, foolbox, torchattacks and pyautoattack: same net, same batch, one run.

    python -m benchmarks.attacks [--batch 32] [--size 32] [--steps 10] [--repeats 7] [--device cpu] [--save FILE]

Implementations take turns. `ratio` is the median over the repeats of the time in units of the first row of its group in
the same repeat, so that a busy machine disturbs both alike; the speeds are those of the fastest repeat. With one thread
of a CPU (OMP_NUM_THREADS=1) the times are processor seconds. Libraries that cannot be imported are left out.
torchattacks is no dependency of this project, because it pins old ones: install it aside with
`pip install --no-deps --target DIR torchattacks` and put DIR on PYTHONPATH.

The bare loop, torchattacks and PGD here all ask autograd for the gradient of the images alone, so that they compute the
same and differ in what lies between the steps. `stop_early` is this PGD without the images that are already beaten; the
net is not trained, and its images fall sooner than those of one that is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, BIM, CW, MIM, PGD
from stocnoise.evaluation.inputs import Counted

EPS, STEP, EOT = 8 / 255, 2 / 255, 4
CW_STEPS, CW_SEARCH = 10, 3

Case = tuple[str, str, Callable[[], object]]


def bare_pgd(model: nn.Module, x: Tensor, y: Tensor, steps: int, draws: int, random_start: bool) -> Tensor:
    """What anyone would write by hand: the cost of the model itself, and little else."""
    point = (x + (torch.rand_like(x) * 2 - 1) * EPS).clamp(0, 1) if random_start else x
    for _ in range(steps):
        point = point.detach().requires_grad_()
        gradient = torch.zeros_like(x)
        for _ in range(draws):
            gradient += torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]
        point = point.detach() + STEP * gradient.sign()
        point = torch.clamp(point, x - EPS, x + EPS).clamp(0, 1)
    return point


def optional(name: str) -> ModuleType | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        print(f"without {name}: {error}")
        return None


def cases(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Iterator[Case]:
    """(attack, implementation, call), grouped by attack."""
    foolbox, torchattacks = optional("foolbox"), optional("torchattacks")
    autoattack = optional("pyautoattack.autopgd_base")
    fixed = {"eps": EPS, "steps": steps, "step_size": STEP}
    theirs = {"eps": EPS, "alpha": STEP, "steps": steps}
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device) if foolbox else None

    def fool(attack: object) -> Callable[[], object]:
        return lambda: attack.run(wrapped, x, y, epsilon=EPS)  # type: ignore[attr-defined]

    yield "BIM", "bare loop", lambda: bare_pgd(model, x, y, steps, 1, False)
    yield "BIM", "stocnoise", lambda: BIM(**fixed)(model, x, y)
    if foolbox:
        yield "BIM", "foolbox", fool(foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=STEP, steps=steps))
    if torchattacks:
        yield "BIM", "torchattacks", lambda: torchattacks.BIM(model, **theirs)(x, y)

    yield "PGD", "bare loop", lambda: bare_pgd(model, x, y, steps, 1, True)
    yield "PGD", "stocnoise", lambda: PGD(**fixed)(model, x, y)
    yield "PGD", "stop_early", lambda: PGD(**fixed, stop_early=True)(model, x, y)
    if foolbox:
        yield "PGD", "foolbox", fool(foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=steps))
    if torchattacks:
        yield "PGD", "torchattacks", lambda: torchattacks.PGD(model, **theirs)(x, y)

    yield f"PGD, EOT {EOT}", "bare loop", lambda: bare_pgd(model, x, y, steps, EOT, True)
    yield f"PGD, EOT {EOT}", "stocnoise", lambda: PGD(**fixed, eot=EOT)(model, x, y)
    if torchattacks:
        yield f"PGD, EOT {EOT}", "torchattacks", lambda: torchattacks.EOTPGD(model, **theirs, eot_iter=EOT)(x, y)

    yield "MIM", "stocnoise", lambda: MIM(**fixed)(model, x, y)
    if foolbox and hasattr(foolbox.attacks, "LinfMomentumIterativeFastGradientMethod"):
        mim = foolbox.attacks.LinfMomentumIterativeFastGradientMethod(abs_stepsize=STEP, steps=steps)
        yield "MIM", "foolbox", fool(mim)
    if torchattacks:
        yield "MIM", "torchattacks", lambda: torchattacks.MIFGSM(model, **theirs, decay=1.0)(x, y)

    yield "APGD", "stocnoise", lambda: APGD(eps=EPS, steps=steps)(model, x, y)
    if autoattack:
        apgd = autoattack.APGDAttack(model, n_iter=steps, eps=EPS, device=x.device)
        yield "APGD", "pyautoattack", lambda: apgd.perturb(x, y)
    if torchattacks:
        yield "APGD", "torchattacks", lambda: torchattacks.APGD(model, eps=EPS, steps=steps)(x, y)

    yield "CW", "stocnoise", lambda: CW(steps=CW_STEPS, search_steps=CW_SEARCH)(model, x, y)
    if foolbox:
        cw = foolbox.attacks.L2CarliniWagnerAttack(
            steps=CW_STEPS, binary_search_steps=CW_SEARCH, stepsize=0.05, initial_const=0.1, abort_early=False
        )
        yield "CW", "foolbox", lambda: cw.run(wrapped, x, y)
    if torchattacks:
        yield "CW", "torchattacks", lambda: torchattacks.CW(model, c=1, steps=CW_STEPS * CW_SEARCH, lr=0.05)(x, y)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--save", type=Path, help="append one JSON object per row to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = Counted(torchvision.models.resnet18(num_classes=10)).to(device).eval()
    x = torch.rand(args.batch, 3, args.size, args.size, device=device)
    y = model(x).argmax(1)
    warnings.simplefilter("ignore")

    rows = [row for row in cases(model, x, y, args.steps) if args.only in row[0]]
    gradients = []
    for _, _, call in rows:  # also the warm-up
        model.gradients = 0
        call()
        gradients.append(model.gradients)
    # One thread's processor time is the same however busy the machine is.
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(args.repeats):
        for (_, _, call), taken in zip(rows, times, strict=True):
            wait(device)
            start = clock()
            call()
            wait(device)
            taken.append(clock() - start)

    versions = {"stocnoise": stocnoise.__version__, "torch": torch.__version__}
    print(f"\nresnet18, {args.batch} images of {args.size}², {args.steps} steps, {device}, torch {torch.__version__}")
    print(
        f"{'attack':12} {'implementation':14} {'images/s':>10} {'gradients/s':>12} {'gradients/image':>16} {'ratio':>7}"
    )
    first: dict[str, list[float]] = {}
    for (attack, implementation, _), taken, count in zip(rows, times, gradients, strict=True):
        seconds = min(taken)
        ratio = statistics.median(a / b for a, b in zip(taken, first.setdefault(attack, taken), strict=True))
        row = {
            "attack": attack,
            "implementation": implementation,
            "images_per_s": args.batch / seconds,
            "gradients_per_s": count / seconds,
            "gradients_per_image": count / args.batch,
            "ratio": ratio,
        }
        print(
            f"{attack:12} {implementation:14} {row['images_per_s']:10.1f} {row['gradients_per_s']:12.1f} "
            f"{row['gradients_per_image']:16.1f} {ratio:7.3f}"
        )
        if args.save:
            settings = {"batch": args.batch, "size": args.size, "steps": args.steps, "device": str(device)}
            args.save.parent.mkdir(parents=True, exist_ok=True)
            with args.save.open("a") as file:
                file.write(json.dumps(row | settings | versions | {"threads": torch.get_num_threads()}) + "\n")


if __name__ == "__main__":
    main()
