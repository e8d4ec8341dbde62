"""`certify`: a class, a bound of its probability and a radius for each input."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks.base import check_input
from stocnoise.attacks.modes import attack_mode, inner
from stocnoise.batches import Batch
from stocnoise.certification import bound, sequential
from stocnoise.certification.certificate import Certificate
from stocnoise.certification.record import Record, Row, digest, earlier, part_of, remove_parts, state_digest
from stocnoise.certification.refusals import certifiable, noise_of, require_eval, require_independent
from stocnoise.certification.sampling import Precision, Sampler, precision_on
from stocnoise.checks import (
    check_model,
    check_number,
    check_path,
    check_seed,
    check_several,
    check_share,
    check_text,
    check_whole,
    optional,
)
from stocnoise.evaluation.inputs import batches, pixel_model, processes
from stocnoise.evaluation.model_checks import left_on
from stocnoise.evaluation.trials import seed_all
from stocnoise.normalization import warn_if_bare
from stocnoise.tasks import OutputReader, TaskLike
from stocnoise.tasks.multiclass import as_labels

_FIRST = 32  # draws before the first look, where an answer may come early


def certify(
    student: nn.Module,
    data: Iterable[Any],
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    batch: int = 1000,
    at: float | None = None,
    task: TaskLike = "multiclass",
    output: OutputReader | None = None,
    precision: Precision | None = None,
    max_images: int | None = None,
    seed: int = 0,
    progress: bool = True,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Certificate:
    """A radius r = σ·Φ⁻¹(p) for each input, within which no change of it moves the student's most probable class.

    σ is that of the noise on the input, p a lower bound of the probability of the class, at confidence 1 − α for each
    input by itself. The class is the most frequent of `n0` draws, the bound is of `n` others (Clopper & Pearson); where
    p ≤ ½ there is no answer. Noise and layers inside the student may be anything. The threat model is L2 in units of
    the input; the promise is of the class that is most probable under the noise, not of one draw.

    With `at=r` the question is only whether the radius r is reached. Draws stop as soon as that is known, by a test
    that holds at any stopping time; an input then has the radius r, or no answer.

    The student runs in eval mode, and is left as it was; so is PyTorch's random state. Each input has draws of its own,
    a function of `seed` and its place in the data alone (on one kind of device, at one `batch`). With several processes
    (`accelerate launch`, `torchrun`) each takes its share of the batches and all return the same: give every process
    the same plain loader and its own copy of the student.

    Args:
        student: with noise on its input: `convert(model, input_noise=σ)` or `with_input_noise(model, σ)`.
        data: batches (inputs, labels), in the same order each time if runs are to resume.
        n0: draws that choose the class.
        n: draws for the bound; σ·Φ⁻¹(α^(1/n)) is the largest radius: 2.46 σ for 1,000, 3.20 σ for 10,000 at α = 0.001.
        alpha: α, the probability that an input's certificate is wrong.
        batch: noisy copies in a pass; on a CPU fewer may be faster.
        at: a radius r > 0 to ask about; None finds each input's own.
        task: "multiclass" or "binary".
        output: what of the model's answer is the output: a key or attribute, an index, or a function.
        precision: of autocast: "bf16" (the default on a GPU), "fp16" or "no" (elsewhere); the certificate is of the
            student run so. A draw whose output is not finite counts against every class.
        max_images: stop after so many.
        seed: of the noise.
        progress: show a bar.
        name: of the model in the certificate; default its class.
        path: keep the rows there as JSON after every batch; with several processes beside it until all are done.
        resume: go on from `path`, if it is there.

    Raises:
        ValueError: no noise on the input, or it is switched off or fixed; rows of a batch that depend on one another
            (BatchNorm in training); a task without classes, or labels the model does not have; `n` too small for any
            radius at this α, or for `at`; a file of another run.

    Source: Cohen, Rosenfeld & Kolter, ICML 2019.

    Example:
        >>> smoothed = stocnoise.with_input_noise(model, sigma=0.25).eval()
        >>> certificate = stocnoise.certify(smoothed, loader, n=100, progress=False)
        >>> certificate.radii.shape
        torch.Size([4])
    """
    from tqdm import tqdm

    check_model("student", student)
    check_several("data", data, "batches")
    for label, value in (("n0", n0), ("n", n), ("batch", batch)):
        check_whole(label, value)
    optional(check_whole, "max_images", max_images)
    check_share("alpha", alpha, inner=True)
    optional(check_number, "at", at, above=0)
    check_seed("seed", seed)
    optional(check_text, "name", name)
    optional(check_path, "path", path)
    if resume and path is None:
        raise ValueError("resume=True needs the path of what there is to resume")
    asked = certifiable(task, output)
    student = pixel_model(student, None, None)
    noise = noise_of(student)
    _require_reach(n, alpha, noise.sigma, at)
    require_eval(student)
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    sampler = Sampler(student, asked, batch, precision_on(device, precision))
    settings = {  # plain numbers, for JSON
        "sigma": noise.sigma,
        "n0": int(n0),
        "n": int(n),
        "alpha": float(alpha),
        "batch": int(batch),
        "at": None if at is None else float(at),
        "seed": int(seed),
        "task": asked.name,
        "precision": sampler.precision,
        "weights": state_digest(student),
    }
    rank, world = processes(data)
    place = None if path is None else Path(path)
    run = _Run(
        sampler,
        settings,
        name or type(inner(student)).__name__,
        earlier(place, settings) if place is not None and resume else {},
        [] if (kept := left_on(student)) is None else [kept],
    )
    if inner(student).training:
        run.warnings.append(
            "the model was in training mode and was certified in eval mode: call model.eval() to say so"
        )
    if place is not None and not resume and rank == 0:
        remove_parts(place)
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    total = len(data) if isinstance(data, Sized) else None
    first = 0
    with (
        torch.random.fork_rng(cuda),
        attack_mode(student),
        tqdm(disable=not progress or rank != 0, unit="batch", desc="certify", total=total) as bar,
    ):
        for index, given in enumerate(batches(data, max_images, device, None, asked)):
            _check(given, sampler)
            if index == 0:
                warn_if_bare(student, given.x)
                seed_all(seed, "independence")
                require_independent(student, noise, given.x, asked)
            if index % world == rank:
                run.batch(first, given)
                if place is not None:
                    run.record().write(part_of(place, rank, world))
            first += len(given.x)
            bar.update()
    if first == 0:
        raise ValueError("the data gave no batch")
    if world > 1:
        run.gather(world)
    run.rows = {index: row for index, row in run.rows.items() if index < first}
    certificate = Certificate(run.record(last=True))
    if place is not None and rank == 0:
        certificate.save(place)
        remove_parts(place)
    return certificate


def _require_reach(n: int, alpha: float, sigma: float, at: float | None) -> None:
    """ValueError if no draws whatever could certify anything."""
    if at is None:
        if n < (fewest := bound.fewest_draws(alpha)):
            raise ValueError(
                f"n={n} draws certify no radius at alpha={alpha:g}, even if all agree: it takes at least n={fewest}"
            )
        return
    p = bound.probability_for(at, sigma)
    if p >= 1 or n < (fewest := sequential.fewest_draws(p, alpha)):
        needed = "more draws than can be counted" if p >= 1 else f"at least n={fewest}"
        raise ValueError(
            f"n={n} draws cannot show the radius {at:g} = {at / sigma:.3g} sigma at alpha={alpha:g}, even if all "
            f"agree: it takes {needed}, or more noise"
        )


def _check(batch: Batch, sampler: Sampler) -> None:
    check_input(batch.x, batch.y, None)
    if batch.others is not None:
        raise ValueError("a certificate is of one input: put the model's others inside it")
    if not batch.x.isfinite().all():
        raise ValueError("inputs must be finite numbers")
    sampler.task.check(sampler.output(batch.x[:1]), as_labels(batch.y))


@dataclass
class _Run:
    """What has been found so far."""

    sampler: Sampler
    settings: Mapping[str, Any]
    name: str
    rows: dict[int, Row]
    warnings: list[str]

    def batch(self, first: int, batch: Batch) -> None:
        labels = as_labels(batch.y).reshape(-1).long()
        for i, (x, label) in enumerate(zip(batch.x, labels, strict=True)):
            index, what = first + i, digest([x, label])
            if index in self.rows:
                if self.rows[index].digest != what:
                    raise ValueError(
                        f"input {index} is another than when this run began: resume needs the data in the same order"
                    )
                continue
            seed_all(self.settings["seed"], "certify", index)
            self.rows[index] = self.row(index, what, int(label), x)

    def row(self, index: int, what: str, label: int, x: Tensor) -> Row:
        settings = self.settings
        choice = self.sampler.counts(x, settings["n0"])
        chosen = int(choice[:-1].argmax())
        if settings["at"] is None:
            found = self.sampler.counts(x, settings["n"])
            p = bound.lower_bound(int(found[chosen]), settings["n"], settings["alpha"])
            radius = bound.radius_of(p, settings["sigma"])
        else:
            found, reached = self.until_known(x, chosen)
            radius = settings["at"] if reached else 0.0
        return Row(
            index,
            what,
            label,
            chosen if radius > 0 else -1,
            radius,
            int(found[chosen]),
            int(found.sum()),
            int(choice[-1] + found[-1]),
        )

    def until_known(self, x: Tensor, chosen: int) -> tuple[Tensor, bool]:
        """Counts, and whether they show the radius `at`: more and more draws until they show it, or its contrary."""
        settings = self.settings
        p = bound.probability_for(settings["at"], settings["sigma"])
        enough = -math.log(settings["alpha"])
        found, draws, more = torch.zeros(0, dtype=torch.int64), 0, _FIRST
        while draws < settings["n"]:
            more = min(more, self.sampler.batch, settings["n"] - draws)
            new = self.sampler.counts(x, more)
            found = found + new if draws else new
            draws += more
            hits = int(found[chosen])
            if sequential.evidence(hits, draws, p) >= enough:
                return found, True
            if sequential.counter_evidence(hits, draws, p) >= enough:
                break
            more *= 2
        return found, False

    def gather(self, world: int) -> None:
        """Give every process the rows and warnings of all."""
        everyone: list[Any] = [None] * world
        torch.distributed.all_gather_object(everyone, (self.rows, self.warnings))
        self.rows = {index: row for rows, _ in everyone for index, row in rows.items()}
        self.warnings = list(dict.fromkeys(warning for _, warnings in everyone for warning in warnings))

    def record(self, last: bool = False) -> Record:
        rows = tuple(self.rows[index] for index in sorted(self.rows))
        warnings = list(self.warnings)
        if last and (broken := [row for row in rows if row.not_finite]):
            abstained = sum(row.predicted < 0 for row in broken)
            warnings.append(
                f"for {len(broken)} of {len(rows)} inputs some outputs were not finite (float16 overflows at 65,504): "
                f"such a draw counts against every class, and {abstained} of these inputs have no answer"
            )
        return Record(self.name, self.settings, tuple(warnings), rows)
