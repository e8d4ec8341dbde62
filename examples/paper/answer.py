"""What the report says of the question that matters: the front, who is ahead of it, and under how strong an attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from examples.paper import question
from examples.paper.markdown import percent, picture, table
from examples.paper.recipes import TITLES
from examples.paper.results import Results
from examples.paper.scale import Budget, Scale


def section(scale: Scale, results: Results, pictures: dict[str, str]) -> Iterator[str]:
    """Lines of Markdown; none where adversarial training was not measured."""
    line, held = question.rows(results, scale)
    if not line:
        return
    yield "## Is the student ahead of adversarial training?"
    yield ""
    yield (
        f"At equal clean accuracy and equal budget, under the strongest attack at ε = {scale.training.eps:.3g}, which "
        "the student and AT were trained for unless the row says otherwise:"
    )
    yield ""
    answers = [
        row for row in held if row.title.startswith(TITLES["anis"]) and row.predictor in ("one draw", "averaged")
    ]
    taken = question.taken(results)
    for row in answers:
        stands = question.verdict(row, taken.get((row.title, row.predictor), 0.0))
        yield f"- {row.title}, {row.predictor}: **{stands}**"
    yield ""
    first, *later = scale.attacks.strongest
    budgets = ", ".join(f"{each.steps} × {each.tries}" for each in later)
    then = f"; then, on the images that are left, of APGD on the margin, {budgets}" if later else ""
    yield (
        "The strongest attack is, image by image, the best of PGD, APGD and APGD on the margin, "
        f"{first.steps} steps × {first.tries} draws each (against AT as many restarts instead), PGD on one frozen draw "
        f"and PGD with the noise off{then}. The averaged predictor is attacked through its own mean, in half as many "
        "steps, and with what was made on one draw, whichever is worse for an image. A gap is the robust accuracy "
        "above AT's front: the most robust of AT in its several forms and the teacher, or random mixture of two, with "
        "at least the same clean accuracy. Its interval is a bootstrap over seeds and images. Several γ and predictors "
        "were looked at: read a gap whose interval ends near zero as one of several comparisons. *passes*: there and "
        "back, that each training image costs in all epochs; *s*: seconds of training, on a machine that does other "
        "things too; *asks*: passes that an answer costs."
    )
    yield from table(
        ["", "predictor", "clean %", "robust %", "95 %", "gap to AT", "95 %", "passes", "s", "asks"],
        [
            [
                row.title,
                row.predictor,
                percent(row.clean),
                percent(row.robust),
                "[{:.1f}, {:.1f}]".format(*(100 * each for each in row.robust_interval)),
                "–" if row.gap is None else f"{100 * row.gap:+.1f}" + (" (beyond AT)" if row.beyond else ""),
                "–" if row.gap_interval is None else "[{:+.1f}, {:+.1f}]".format(*(100 * e for e in row.gap_interval)),
                f"{row.passes:.0f}",
                f"{row.seconds:.0f}",
                str(row.inference),
            ]
            for row in [*line, *held]
        ],
    )
    yield from picture(pictures, "question", "robust accuracy against clean accuracy")
    yield from _stages(scale, results)
    yield from _autoattack(scale, results)


def _stages(scale: Scale, results: Results) -> Iterator[str]:
    _, *later = scale.attacks.strongest
    if later and (rows := question.stages(results)):
        yield (
            "Has that attack come to its end? Robust accuracy in % after each of its stages, means over seeds. Where "
            "the last stage still takes something, a stronger attack would take more, and from the gap too:"
        )
        yield from _left_by(later, rows)
    if rows := question.stages(results, harder=True):
        yield (
            "What came out ahead was attacked harder, by PGD and APGD on the margin after the first stage, and that is "
            "what stands in the table above:"
        )
        yield from _left_by(scale.attacks.harder, rows)


def _left_by(later: Sequence[Budget], rows: list[tuple[str, str, list[float]]]) -> Iterator[str]:
    heads = ["", "predictor", "first stage", *(f"then {each.steps} × {each.tries}" for each in later)]
    yield from table(heads, [[title, predictor, *map(percent, left)] for title, predictor, left in rows])


def _autoattack(scale: Scale, results: Results) -> Iterator[str]:
    found = {
        name: results.figure(name, "autoattack", "autoattack", scale.training.eps, key="robust_accuracy")
        for name in TITLES
    }
    if any(found.values()):
        yield (
            f"AutoAttack (`standard`; `rand` where there is noise) on {scale.attacks.autoattack_images} images, one "
            "seed, robust accuracy of fresh draws in %: "
            + ", ".join(f"{TITLES[name]} {figure}" for name, figure in found.items() if figure is not None)
            + "."
        )
        yield ""
