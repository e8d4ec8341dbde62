"""report.md: the question that matters, the paper's claims, and each of its tables and figures, from the results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.paper import answer, figures, recipes
from examples.paper.claims import PAPER_BOUNDARY, PAPER_CLEAN, claims
from examples.paper.markdown import cell, percent, picture, table
from examples.paper.recipes import TITLES
from examples.paper.results import Results
from examples.paper.scale import Scale

_NOT_CONVERGED = re.compile(r"has not converged: its last stage still took ([\d.]+) points")


def write(scale: Scale, out: Path) -> Path:
    """Draw the pictures and write the report beside the results."""
    results = Results.read(out)
    pictures = figures.draw(results, scale, out)
    tables = [
        _claims(scale, results),
        _table_1(results),
        _white_box(scale, results, pictures),
        _boundary(scale, results),
        _ablations(scale, results, pictures),
        _planes(pictures),
    ]
    parts = [
        _head(scale, results),
        answer.section(scale, results, pictures),
        *(tables if scale.studies.tables else ()),
        _long_training(scale, results, pictures),
        _settings(scale, results),
    ]
    path = out / "report.md"
    path.write_text("\n".join(line for part in parts for line in part).rstrip() + "\n")
    return path


def _head(scale: Scale, results: Results) -> Iterator[str]:
    data, training, attacks = scale.data, scale.training, scale.attacks
    measured = [line for line in results.lines if "settings" in line]
    seeds = sorted({line["seed"] for line in measured})
    made = {(tuple(s["versions"].items()), s["device"]) for s in (line["settings"] for line in measured)}
    versions = sorted(f"{', '.join(map(' '.join, items))}, on {device}" for items, device in made)
    what = "The paper's tables and figures" if scale.studies.tables else "The question that matters"
    yield f"# {what} on {scale.name}"
    yield ""
    yield (
        "Tan, Elovici, Binder, *Adaptive Noise Injection for Training Stochastic Student Networks from Deterministic "
        f"Teachers*, ICPR 2020, by `python -m examples.paper {scale.name}`. {scale.note}"
    )
    yield ""
    size = f"{data.image_size}×{data.image_size}"
    yield (
        f"- **Data**: {data.source}, {size}; {data.holdout} training images held out for choosing settings; "
        f"network {scale.network}, width {scale.width}."
    )
    yield (
        f"- **Training**: a teacher ({training.teacher_epochs} epochs); from it every defence for {training.epochs} "
        f"epochs, batch {training.batch_size}, SGD with one cycle up to {training.lr:g}, PGD-{training.steps} at "
        f"ε = {training.eps:.3g}; the student's γ grows from 0.01 to {training.gamma:g}. "
        f"Seeds {', '.join(map(str, seeds))}."
    )
    yield (
        f"- **Attacks**: {attacks.steps} steps; with EOT a gradient is the mean over {attacks.eot} draws; images are "
        f"scored on {attacks.draws} fresh draws. Figures are means over seeds, ± a 95 % half-width over images, draws "
        "and seeds."
    )
    yield f"- **Versions**: {'; '.join(versions)}."
    yield from (f"- **Warning**: {warning}" for warning in _warnings(measured))
    yield ""


def _warnings(measured: list[dict[str, Any]]) -> list[str]:
    """Each of them once, and in one sentence what differs by nothing but its figures."""
    given = [warning for line in measured for warning in line["warnings"]]
    taken = [float(found[1]) for warning in given if (found := _NOT_CONVERGED.search(warning))]
    said = sorted({warning for warning in given if not _NOT_CONVERGED.search(warning)})
    if taken:
        said.append(
            f"{len(taken)} of the strongest attacks have not converged: the last stage still took {min(taken):.1f} to "
            f"{max(taken):.1f} points of a robust accuracy, which is then at most what stands here"
        )
    return said


def _claims(scale: Scale, results: Results) -> Iterator[str]:
    yield "## The paper's claims"
    yield ""
    yield (
        "ASR and accuracies in percent; the paper's are CIFAR-10/CIFAR-100. Confirmed: the difference lies on the "
        "claimed side beyond its 95 % interval. Where the paper has curves, its claim is their order."
    )
    yield from table(
        ["claim", "paper", "here", "verdict"],
        [[claim.text, claim.paper, claim.ours, f"**{claim.verdict}**"] for claim in claims(results, scale)],
    )


def _table_1(results: Results) -> Iterator[str]:
    yield "## Table 1: clean accuracy"
    yield from table(
        ["", "here %", "paper, CIFAR-10", "paper, CIFAR-100"],
        [
            [title, cell(results.clean(name)), *(f"{value:.1f}" for value in PAPER_CLEAN[name])]
            for name, title in TITLES.items()
        ],
    )


def _white_box(scale: Scale, results: Results, pictures: dict[str, str]) -> Iterator[str]:
    eps = scale.training.eps
    yield "## White box: BIM, MIM, CW"
    yield ""
    yield f"ASR at ε = {eps:.3g} in %, with one draw a gradient as in the paper, and with EOT:"
    columns = [
        ("BIM", "plain", "bim"),
        ("BIM, EOT", "expectation", "bim"),
        ("MIM", "plain", "mim"),
        ("MIM, EOT", "expectation", "mim"),
        ("strongest", "strongest", "worst case"),
        ("BIM from the teacher", "plain", "transfer-bim"),
        ("MIM from the teacher", "plain", "transfer-mim"),
    ]
    yield from table(
        ["", *(title for title, _, _ in columns)],
        [
            [title, *(cell(results.figure(name, kind, attack, eps)) for _, kind, attack in columns)]
            for name, title in TITLES.items()
        ],
    )
    yield "Where there is no noise, EOT is the same attack. CW is an attack in L2, so its ε is an L2 radius."
    yield from picture(pictures, "white-box", "ASR against ε, white box")
    yield "### Transfer"
    yield from picture(pictures, "transfer", "ASR against ε of images made on the teacher")


def _boundary(scale: Scale, results: Results) -> Iterator[str]:
    attacks = scale.attacks
    yield f"## Boundary Attack, {attacks.boundary_images} images, {attacks.boundary_steps} steps"
    yield ""
    yield (
        "Raw, as in the paper: the attack asks the stochastic model itself, and its images are scored as it found "
        "them, on fresh draws. Frozen: it asks one classifier drawn from the model, goes on 1.5 times as far, and is "
        "scored in the same way. ASR in %, also within L2 radii."
    )
    radii = [None, *attacks.l2]
    shown = ["as found", *(f"L2 ≤ {radius:g}" for radius in attacks.l2)]
    yield from table(
        ["", *(f"raw, {r}" for r in shown), *(f"frozen, {r}" for r in shown), "paper, CIFAR-10", "paper, CIFAR-100"],
        [
            [
                title,
                *(
                    cell(results.figure(name, "boundary", attack, radius, "l2"))
                    for attack in ("boundary-raw", "boundary")
                    for radius in radii
                ),
                *(f"{value:.1f}" for value in PAPER_BOUNDARY.get(name, ())),
                *(["–"] * (0 if name in PAPER_BOUNDARY else 2)),
            ]
            for name, title in TITLES.items()
        ],
    )


def _ablations(scale: Scale, results: Results, pictures: dict[str, str]) -> Iterator[str]:
    if "ablation" not in pictures:
        return
    seeds = ", ".join(map(str, scale.studies.gamma_seeds))
    yield f"## Ablations against γ (seed {seeds})"
    yield from picture(pictures, "ablation", "accuracy, ASR and their difference against γ")
    variants = recipes.ablations(scale)
    rows = []
    for (_, gamma), recipe in variants.items():
        found = [
            results.figure(recipe.name, "ablation", attack, scale.training.eps)
            for attack in ("PGD", "PGD, EOT", "worst case")
        ]
        rows.append([recipe.title, f"{gamma:g}", cell(results.clean(recipe.name, "ablation")), *map(cell, found)])
    yield from table(["", "γ_max", "clean %", "ASR, one draw", "ASR, EOT", "ASR, strongest"], rows)


def _planes(pictures: dict[str, str]) -> Iterator[str]:
    if "plane" in pictures:
        yield "## The decision boundary while training"
        yield ""
        yield "The plane through three test images of the first three classes; colours are classes."
        yield from picture(pictures, "plane", "classes on the plane through three images, over training")


def _long_training(scale: Scale, results: Results, pictures: dict[str, str]) -> Iterator[str]:
    rows = []
    for recipe in recipes.long_runs(scale).values():
        for line in results.of(recipe.name, "training"):
            robust = [epoch["val_robust_accuracy"] for epoch in line["history"]]
            best = max(range(len(robust)), key=robust.__getitem__)
            drop = robust[-1] - robust[best]
            rows.append([recipe.title, percent(robust[best]), str(best + 1), percent(robust[-1]), f"{100 * drop:+.1f}"])
    if rows:
        yield "## Long training, on held-out images"
        yield from table(["", "best robust %", "at epoch", "last robust %", "last − best"], rows)
        yield "PGD-10 (EOT-4 where there is noise). The best of many epochs is a maximum of noisy figures."
        yield from picture(pictures, "overfitting", "robust accuracy over a long training")


def _settings(scale: Scale, results: Results) -> Iterator[str]:
    defences = recipes.defences(scale)
    varied = {
        "at": defences["at"],
        "anis": defences["anis"],
        **recipes.students(scale),
        **recipes.learning_rates(scale),
    }
    eps = scale.training.eps
    rows = [
        [
            recipe.title,
            "–" if recipe.gamma is None else f"{recipe.gamma:g}",
            f"{recipe.lr:g}",
            str(len(results.of(name, "held-out"))),
            str(clean),
            cell(results.figure(name, "held-out", "pgd", eps, key="robust_accuracy")),
        ]
        for name, recipe in varied.items()
        if (clean := results.clean(name, "held-out")) is not None
    ]
    if rows:
        yield "## Settings, on held-out images"
        yield ""
        yield f"PGD at ε = {eps:.3g}, {scale.attacks.steps} steps, EOT-{scale.attacks.eot} where there is noise."
        yield from table(["", "γ_max", "learning rate", "seeds", "clean %", "robust %"], rows)
