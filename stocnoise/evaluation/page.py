"""A report as one HTML file that opens offline: warnings first, then figures, curves, stages and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from stocnoise.evaluation.curves import COLOURS, query_svg, svg
from stocnoise.evaluation.examples import Answers, Example
from stocnoise.evaluation.measured import Entry, Measured
from stocnoise.evaluation.page_style import SCRIPT, STYLE
from stocnoise.evaluation.pictures import is_picture, triple
from stocnoise.evaluation.query_table import NOTE, query_head, query_rows
from stocnoise.evaluation.stage_table import HEAD, stage_rows, stage_title, verdict
from stocnoise.evaluation.table import epsilon, percent

# Of the answers of an example, the most frequent ones are drawn.
_ANSWERS = 4


def page(report: Measured, examples: Sequence[Example]) -> str:
    """The whole file."""
    title = escape(f"{report.model}: robustness")
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            *_head(report),
            *_warnings(report.warnings),
            *_filter(report),
            *_figures(report),
            *_curves(report),
            *_queries(report),
            *_stages(report.entries),
            *_examples(examples),
            *_settings(report),
            f"<script>{SCRIPT}</script></body></html>",
        ]
    )


def _norm(report: Measured) -> str:
    return {"inf": "L∞", "l2": "L2"}[report.settings["norm"]]


def _head(report: Measured) -> Iterator[str]:
    settings, clean = report.settings, report.clean
    kind = "stochastic" if settings["stochastic"] else "deterministic"
    yield f"<header><h1>{escape(report.model)}</h1>"
    yield f'<p class="big">Clean accuracy <strong>{percent(clean.accuracy)} %</strong>'
    if settings["stochastic"]:
        yield f" per draw, {100 * clean.vote:.1f} by vote, {100 * clean.averaged:.1f} averaged"
    yield f'</p><p class="soft">{settings["images"]} images, {kind}; in brackets 95 % over images and draws.</p>'
    yield "</header>"


def _warnings(warnings: Sequence[str]) -> Iterator[str]:
    if not warnings:
        yield "<main><p>No warnings.</p>"
        return
    yield f'<main><section class="warnings" aria-labelledby="w"><h2 id="w">Warnings: {len(warnings)}</h2><ul>'
    yield from (f"<li>{escape(warning)}</li>" for warning in warnings)
    yield "</ul></section>"


def _key(eps: float | None) -> str:
    return "any" if eps is None else f"{eps:.6g}"


def _label(eps: float | None) -> str:
    return "any size" if eps is None else epsilon(eps, 0.0)


def _filter(report: Measured) -> Iterator[str]:
    """Boxes to tick; out of sight where no script runs, and everything is shown."""
    yield '<section id="filter" hidden aria-label="What is shown"><fieldset><legend>Attacks</legend>'
    for number, attack in enumerate(report.attacks):
        swatch = f'<span class="swatch" style="--c:var(--c{number % COLOURS})"></span>'
        yield _box("attack", attack, f"{swatch}{escape(attack)}")
    yield f"</fieldset><fieldset><legend>{_norm(report)} ε</legend>"
    for eps in sorted({entry.eps for entry in report.entries}, key=lambda e: (e is not None, e or 0.0)):
        yield _box("eps", _key(eps), escape(_label(eps)))
    yield "</fieldset></section>"


def _box(kind: str, value: str, label: str) -> str:
    return f'<label><input type="checkbox" checked data-filter="{kind}" value="{escape(value)}">{label}</label>'


def _figures(report: Measured) -> Iterator[str]:
    head = ["attack", f"{_norm(report)} ε", "ASR %", "robust %", "vote ASR", "averaged ASR", "gradients", "seconds"]
    rows = [
        (
            _attributes(entry),
            [
                entry.attack,
                epsilon(entry.eps, entry.median_l2),
                percent(entry.asr),
                percent(entry.robust_accuracy),
                f"{100 * entry.vote_asr:.1f}",
                f"{100 * entry.averaged_asr:.1f}",
                f"{entry.gradients:.0f}",
                f"{entry.seconds:.1f}",
            ],
        )
        for entry in report.entries
        if entry.budget is None
    ]
    if not rows:
        return
    yield "<section><h2>Figures</h2>"
    yield "<p>ASR = P(f(x+δ) ≠ y | f(x) = y), on fresh draws of the noise; gradients per image.</p>"
    yield f"{_table('Figures', head, rows, 2)}</section>"


def _table(label: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], left: int) -> str:
    """Rows of (attributes, cells), which scroll sideways where they find no room."""

    def side(column: int) -> str:
        return "left" if column < left else "right"

    cells = "".join(f'<th scope="col" style="text-align:{side(i)}">{escape(h)}</th>' for i, h in enumerate(head))
    body = "".join(
        f"<tr{attributes}>"
        + "".join(
            f'<td style="text-align:{side(i)}"{" class=wrap" if len(c) > 40 else ""}>{escape(c)}</td>'
            for i, c in enumerate(row)
        )
        + "</tr>"
        for attributes, row in rows
    )
    open_tag = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    return f"{open_tag}<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _curves(report: Measured) -> Iterator[str]:
    drawn = svg([(attack, report.curve(attack)) for attack in report.attacks], _norm(report))
    if drawn:
        yield f'<section><h2>ASR against ε</h2>{drawn}<p class="soft">Bands: 95 %.</p></section>'


def _queries(report: Measured) -> Iterator[str]:
    """Attackers who may only ask: a curve for each ε, the largest first, and the figures."""
    if not report.counted:
        return
    yield f"<section><h2>ASR against queries</h2><p>{escape(NOTE)}</p>"
    for eps in sorted({entry.eps for entry in report.counted if entry.eps is not None}, reverse=True):
        yield f"<h3>{_norm(report)} ε = {escape(_label(eps))}</h3>{query_svg(report.query_curves(eps))}"
    rows = zip(map(_attributes, report.counted), query_rows(report.counted), strict=True)
    yield f'<p class="soft">Bands: 95 %.</p>{_table("Queries", query_head(_norm(report)), rows, 2)}</section>'


def _attributes(entry: Entry) -> str:
    """What a row is shown or hidden by."""
    return f' data-attack="{escape(entry.attack)}" data-eps="{_key(entry.eps)}"'


def _stages(entries: Sequence[Entry]) -> Iterator[str]:
    found = [entry for entry in entries if entry.stages]
    if found:
        yield "<section><h2>Stages</h2>"
    for entry in found:
        title = stage_title(entry)
        yield f'<div data-attack="{escape(entry.attack)}" data-eps="{_key(entry.eps)}"><h3>{escape(title)}</h3>'
        yield _table(title, HEAD, [("", row) for row in stage_rows(entry)], 2)
        yield f"<p><strong>{escape(verdict(entry))}</strong></p></div>"
    if found:
        yield "</section>"


def _examples(examples: Sequence[Example]) -> Iterator[str]:
    if not examples:
        return
    count = len({example.number for example in examples})
    yield "<section><h2>Examples</h2>"
    yield (
        f"<p>The first {count} inputs that most draws answer rightly without an attack. Bars: the share of draws that "
        'give an answer, <span class="soft">grey without the attack</span>, orange under it; the right answer is bold. '
        '<span id="count" role="status"></span></p><div class="cards">'
    )
    for example in examples:
        yield f'<article class="card" data-attack="{escape(example.attack)}" data-eps="{_key(example.eps)}">'
        under = f"{example.attack} · ε {_label(example.eps)}{_asked(example)}"
        yield f"<h3>#{example.number} · {escape(under)}</h3>"
        if is_picture(example.clean):
            yield _pictures(example)
        yield f"{_answers(example)}</article>"
    yield "</div></section>"


def _asked(example: Example) -> str:
    return "" if example.queries is None else f" · {example.queries} queries"


def _pictures(example: Example) -> str:
    clean, attacked, difference, factor = triple(example.clean, example.attacked)
    shown = [
        (clean, "clean", f"input {example.number}"),
        (attacked, "adversarial", f"input {example.number} under {example.attack}"),
        (difference, f"δ × {factor:.2g}", f"what {example.attack} changed, magnified"),
    ]
    return (
        '<div class="three">'
        + "".join(
            f'<figure><img src="{address}" alt="{escape(said)}"><figcaption>{caption}</figcaption></figure>'
            for address, caption, said in shown
        )
        + "</div>"
    )


def _answers(example: Example) -> str:
    def share(answers: Answers, answer: str) -> float:
        return answers.get(answer, 0.0)

    names = sorted(
        {*example.before, *example.after},
        key=lambda name: -max(share(example.before, name), share(example.after, name)),
    )
    rows = []
    for name in names[:_ANSWERS]:
        before, after = 100 * share(example.before, name), 100 * share(example.after, name)
        right = name in (example.target, "right")
        label = f"<b>{escape(name)}</b>" if right else escape(name)
        bars = "".join(
            f'<span class="bar {kind}" style="width:{value:.1f}%"></span>'
            for kind, value in (("before", before), ("after", after))
        )
        rows.append(f'<span>{label}</span><span class="bars">{bars}</span><span>{before:.0f} → {after:.0f} %</span>')
    return f'<div class="answers">{"".join(rows)}</div>'


def _settings(report: Measured) -> Iterator[str]:
    yield "<section><h2>Settings</h2><dl>"
    for name, value in report.settings.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        yield f"<dt>{escape(name)}</dt><dd>{escape(shown)}</dd>"
    for attack in report.attacks:
        entry = next(entry for entry in report.entries if entry.attack == attack)
        yield f"<dt>{escape(attack)}</dt><dd>{escape(entry.settings)}</dd>"
    yield "</dl></section></main>"
