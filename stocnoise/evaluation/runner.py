"""`evaluate`: every attack at every ε on every batch, and what looks wrong about the outcome."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack
from stocnoise.attacks.ball import PIXELS, Bounds, Norm, check_bounds, check_eps, check_mask, check_norm
from stocnoise.attacks.modes import attack_mode
from stocnoise.batches import BatchReader, check_reader
from stocnoise.checks import (
    check_function,
    check_model,
    check_path,
    check_seed,
    check_several,
    check_text,
    check_values,
    check_whole,
    optional,
)
from stocnoise.evaluation.inputs import Counted, batches, pixel_model, processes
from stocnoise.evaluation.jobs import Wish
from stocnoise.evaluation.kept import KeptBatches
from stocnoise.evaluation.model_checks import left_on
from stocnoise.evaluation.queries import check_queries
from stocnoise.evaluation.report import Report
from stocnoise.evaluation.session import Session
from stocnoise.evaluation.strongest import Strongest
from stocnoise.evaluation.subject import Subject, Wanted
from stocnoise.evaluation.trials import Budgets
from stocnoise.functional import as_one_process
from stocnoise.normalization import Figures, warn_if_bare
from stocnoise.tasks import OutputReader, TaskLike, as_task


def evaluate(
    model: nn.Module,
    data: Iterable[Any],
    attacks: Wish | Sequence[Wish] = ("bim", "pgd", "mim", "cw"),
    eps: float | Tensor | Sequence[float | Tensor] = (2 / 255, 4 / 255, 8 / 255, 16 / 255),
    *,
    task: TaskLike = "multiclass",
    output: OutputReader | None = None,
    batch: BatchReader = None,
    bounds: Bounds = PIXELS,
    mask: Tensor | None = None,
    targets: Wanted | None = None,
    eot: int = 16,
    steps: int = 20,
    draws: int = 32,
    norm: Norm = "inf",
    queries: int | Sequence[int] | None = None,
    transfer_from: nn.Module | None = None,
    mean: Figures = None,
    std: Figures = None,
    max_images: int | None = None,
    checks: bool = True,
    check_images: int = 128,
    keep_examples: int = 0,
    seed: int = 0,
    progress: bool = True,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Report:
    """Attack a classifier, stochastic or not, and report how often it gives way.

    Each attack's images are scored on `draws` fresh draws of the noise; what an attack believes it achieved is not
    used. A model that answers the same each time is attacked with eot = 1 and scored once. Minimum-norm attacks (CW,
    Boundary, HopSkipJump) run once; what they find is pushed 1.5 times as far, since on the boundary itself a
    stochastic model is right half of the time, and for each ε it is cut to length ε in `norm`.

    The model runs in eval mode with its noise on, under an autocast of the caller's if there is one, and is left as it
    was; so is PyTorch's random state. With several processes (`accelerate launch`, `torchrun`) each takes its share of
    the batches and all return the same report: give every process the same plain loader and its own copy of the model.

    Args:
        model: returns what `task` takes; class logits (B, C) by default.
        data: batches (images in [0, 1], labels): a DataLoader, a list or a generator, gone through once.
        attacks: names (`stocnoise.attacks.registry.NAMES`) or attack objects, whose own settings are kept but for ε.
            "boundary" also runs as "boundary-raw", on a model with noise. "strongest" is for each image the best of
            several attacks in stages, now "strongest-1", with budgets of its own: see `evaluation.Strongest`.
        eps: one ε or several, in units of the inputs (pixels of [0, 1]); in L∞ each a number, or a tensor of one for
            each feature, which the report shows by its largest.
        task: what the output means and when it is wrong; see `Task`. The attacks' task, unless they have one.
        output: what of the model's answer is the output: a key or attribute, an index, or a function.
        batch: entries of a batch by name or number, (input, target, further inputs of the model …), or a function that
            makes (input, target) of one; see `BatchReader`.
        bounds: lowest and highest value of an input, numbers or tensors that broadcast to one input; None: no limit.
        mask: of 0 and 1, broadcasting to one input: what attacks may change.
        targets: (x, y) → the answers that targeted attacks are to bring about; default another class at random.
        eot: draws per gradient of the named attacks.
        steps: gradients of `eot` draws that a named attack in a ball takes per image.
        draws: passes over each image and its adversarial versions when they are scored.
        norm: of ε: "inf" or "l2".
        queries: budgets of attackers who may only ask, for "square", "boundary" and "hopskipjump": one query is one
            answer of one draw for one image, and whatever an attack asks counts. `report[attack, ε, queries]` is of an
            attacker who averages as many answers to a question as serve him best, of 1, 4, 16 and 64 at equal total;
            that number is one for all images, and the draws that choose it count in no figure. `attack-raw` takes
            single answers, as published. Beside them only attacks that ask nothing: `transfer_from=`, for want of a
            teacher `stocnoise.revert(student)`, and "random".
        transfer_from: the teacher or any other model; adds the attack "transfer".
        mean, std: if the models expect normalised images; see `normalized`.
        max_images: stop after so many.
        checks: look for signs of false robustness, on the first `check_images` images; failures are `report.warnings`.
        keep_examples: keep so many inputs under every attack, and under the best of them for each, for the pictures of
            `report.to_html`: the first ones that most draws answer rightly without an attack.
        seed: of everything random; the same seed gives the same report on the same machine, by one process or several.
        progress: show a bar.
        name: of the model in the report; default its class.
        path: write the report there as JSON after every batch.
        resume: keep every finished batch in a folder beside `path`, and begin with those that stand there: killed, the
            same call goes on where it was, with any number of processes. The checks are done anew.

    On Ctrl-C the report of the batches done so far is returned, with a warning in it.

    Raises:
        ValueError: inputs outside `bounds`, targets or an output that the task does not take, or an unknown attack;
            `resume` without `path`, or with batches of another evaluation there.
        ImportError: an attack needs a library that is not installed.

    Example:
        >>> report = stocnoise.evaluate(student, loader, ["pgd"], 8 / 255, eot=2, steps=5, draws=8, progress=False)
        >>> 0 <= report["pgd", 8 / 255].robust_accuracy.value <= 1
        True
    """
    from tqdm import tqdm

    check_model("model", model)
    optional(check_model, "transfer_from", transfer_from)
    check_several("data", data, "batches")
    check_norm(norm)
    for label, value in (("eot", eot), ("steps", steps), ("draws", draws), ("check_images", check_images)):
        check_whole(label, value)
    if resume and path is None:
        raise ValueError("resume=True needs path=…: finished batches are kept beside the report")
    check_whole("keep_examples", keep_examples, least=0)
    optional(check_whole, "max_images", max_images)
    optional(check_function, "targets", targets, "(x, y)")
    check_seed("seed", seed)
    optional(check_text, "name", name)
    optional(check_path, "path", path)
    if not isinstance(attacks, str | Attack | Strongest):
        check_several("attacks", attacks, "names or attack objects")
    wanted = [attacks] if isinstance(attacks, str | Attack | Strongest) else list(attacks)
    if transfer_from is not None and "transfer" not in wanted:
        wanted.append("transfer")
    if not wanted:
        raise ValueError("attacks is empty: no attack was asked for")
    check_bounds(bounds)
    check_mask(mask)
    check_reader(batch)
    asked = as_task(task, output)
    counted = Counted(pixel_model(model, mean, std))
    run = Session(
        model=counted,
        subject=Subject(counted, asked, bounds, mask, targets),
        source=None if transfer_from is None else pixel_model(transfer_from, mean, std),
        wanted=wanted,
        eps=_budgets(eps, norm, bounds),
        norm=norm,
        steps=steps,
        eot=eot,
        draws=draws,
        seed=seed,
        keep_examples=keep_examples,
        queries=check_queries(queries),
        name=name or type(pixel_model(model, None, None)).__name__,
    )
    run.jobs_for(stochastic=True)  # what cannot run is said before anything is computed
    if (kept := left_on(counted)) is not None:
        run.warnings.append(kept)
    if counted.training:
        run.warnings.append(
            "the model was in training mode and was evaluated in eval mode: call model.eval() to say so"
        )
    rank, world = processes(data)
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(cuda),
        as_one_process(),  # a batch has its own seed, whichever process it falls to
        attack_mode(run.model),
        tqdm(disable=not progress or rank != 0, unit="attack", desc="evaluate") as bar,
    ):
        torch.manual_seed(seed)
        try:
            for index, given in enumerate(batches(data, max_images, run.device, batch, asked)):
                if index == 0:
                    warn_if_bare(counted.model, given.x)
                    run.begin(given)
                    if resume and path is not None:
                        run.done = KeptBatches(Path(path), run.asked())
                    bar.total = run.total(data, len(given.x), max_images, world)
                if checks and rank == 0:
                    run.keep(given, check_images)
                if index % world == rank:
                    run.batch(index, given, bar)
                    if path is not None and rank == 0:
                        run.report().save(path)
            if checks and rank == 0 and run.results:
                run.check(bar)
        except KeyboardInterrupt:
            if not run.results:
                raise
            run.warnings.append(
                f"interrupted: the figures are of the first {run.images} images, and the checks are not complete"
            )
            return run.report()
    if world > 1:
        run.gather(world)
    if not run.results:
        raise ValueError("the data gave no batch")
    report = run.report()
    if path is not None and rank == 0:
        report.save(path)
    return report


def _budgets(eps: float | Tensor | Sequence[float | Tensor], norm: Norm, bounds: Bounds) -> Budgets:
    """Each ε by its largest value, in rising order."""
    if isinstance(eps, float | int | Tensor):
        eps = [eps]
    check_several("eps", eps, "numbers or tensors")
    given = list(eps)
    for value in given:
        if isinstance(value, Tensor):
            check_values("eps", value)
        elif not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"eps must be positive numbers in pixels of [0, 1], not {eps!r}")
    values = {float(value.max() if isinstance(value, Tensor) else value): value for value in given}
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError(f"eps must be positive numbers in pixels of [0, 1], not {eps}")
    for value in values.values():
        check_eps(value, norm, bounds)
    return {
        size: value if isinstance(value, Tensor) and value.dim() else size for size, value in sorted(values.items())
    }
