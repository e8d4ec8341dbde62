"""evaluate(queries=…): ASR against counted queries, the adaptive attacker, and how it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from attacks_models import digits, trained
from processes import alone_and_in_two
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, Boundary, HopSkipJump, Square, evaluate
from stocnoise.evaluation.queries import settled
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.trials import Tally

X, Y = (t[:24] for t in digits()[2:])
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]
FAST = {"draws": 16, "progress": False, "checks": False}


class Noisy(nn.Module):
    """Says which half is brighter, with as much noise as half of the difference."""

    def forward(self, x: Tensor) -> Tensor:
        gap = x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3))
        gap = gap + 0.1 * torch.randn_like(gap)
        return torch.stack([gap, -gap], 1)


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Images of which one half is brighter, by .2 on average."""
    x = 0.3 + 0.4 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % 2
    x[y == 0, ..., :4] += 0.2
    x[y == 1, ..., 4:] += 0.2
    return x, y


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("foolbox")
    return evaluate(
        trained(gamma=0.3),
        BATCHES,
        ["square", "boundary", "hopskipjump", "random"],
        [0.1, 0.2],
        queries=[100, 20],
        transfer_from=trained(),
        keep_examples=2,
        **FAST,
    )


def test_an_entry_for_each_attack_eps_and_budget_with_what_it_asked(report):
    for name, lengths in (
        ("square", (0.1, 0.2)),
        ("boundary", (None, 0.1, 0.2)),
        ("hopskipjump", (None, 0.1, 0.2)),
    ):
        for eps in lengths:
            for queries in (20, 100):
                raw, best = report[f"{name}-raw", eps, queries], report[name, eps, queries]
                assert raw.budget == best.budget == queries and raw.queries == queries and raw.answers == 1
                assert best.answers in (1, 4, 16, 64)
                assert best.queries == queries // best.answers * best.answers
                assert best.gradients == 0 and best.asr.low <= best.asr.value <= best.asr.high
    assert report["transfer", 0.1].queries == report["random", 0.2].queries == 0
    assert "worst case" not in report.attacks
    with pytest.raises(KeyError):
        report["square", 0.1]
    json.dumps(report.to_dict(), allow_nan=False)
    kept = [(entry["attack"], entry["eps"], entry.get("query_budget")) for entry in report.to_dict()["attacks"]]
    assert kept == [(entry.attack, entry.eps, entry.budget) for entry in report.entries]


def test_a_model_without_noise_is_asked_once():
    report = evaluate(trained(), BATCHES[:1], "square", 0.1, queries=30, **FAST)
    (entry,) = report.entries
    assert entry.key == ("square", 0.1, 30) and entry.answers == 1 and entry.queries == 30


@pytest.mark.parametrize("attack", ["boundary", "hopskipjump"])
def test_averaging_answers_pays_where_single_ones_mislead(attack):
    """The raw figure, a quarter to a half, is the search's for lucky draws: nearly every image falls."""
    pytest.importorskip("foolbox")
    report = evaluate(Noisy(), [halves(48)], attack, 0.3, queries=320, **(FAST | {"draws": 128}))
    raw, best = report[f"{attack}-raw", None, 320], report[attack, None, 320]
    assert best.answers > 1 and best.asr.value > raw.asr.value + 0.25


def test_the_draws_that_choose_are_not_counted():
    """Three numbers of answers that are equally good: the first half of the draws chooses, whatever the second says."""
    torch.manual_seed(0)
    draws = torch.rand(3, 40, 8) < 0.5
    tallies = {
        ("square", 0.1, 200, answers): Tally(scores=[Score(draws[i], draws[i, :, 0])], l2=[torch.ones(40)])
        for i, answers in enumerate((1, 4, 16))
    }
    found = settled(tallies)
    right = {answers: draws[i, :, :4].sum().item() for i, answers in enumerate((1, 4, 16))}
    best = found["square", 0.1, 200]
    assert best.answers == min(right, key=lambda answers: right[answers]) and best.chosen
    assert found["square-raw", 0.1, 200].answers == 1 and not found["square-raw", 0.1, 200].chosen


def test_only_one_half_of_the_draws_is_in_the_figure(report):
    raw, best = report["square-raw", 0.2, 100], report["square", 0.2, 100]
    assert raw.score.correct.shape[1] == 16 and best.score.correct.shape[1] == 8
    assert best.robust_accuracy.value == pytest.approx(best.score.correct.double().mean().item())


def test_it_is_printed_compared_drawn_and_on_the_page(report, tmp_path):
    text = str(report)
    assert "ASR against queries" in text and "A query is one answer of one draw for one image" in text
    lines = [line.split() for line in text.splitlines() if line.split()[:2] == ["square-raw", "0.2"]]
    assert [line[2] for line in lines] == ["20", "100"] and all("[" in " ".join(line) for line in lines)
    assert "square, 100 queries" in str(report.compare(report))
    curves = dict(report.query_curves(0.2))
    assert [queries for queries, _ in curves["square"]] == [20, 100]
    assert curves["transfer"][0][1] == curves["transfer"][1][1] == report["transfer", 0.2].asr
    assert report.curve("square") == [(e, report["square", e, 100].asr) for e in (0.1, 0.2)]
    pytest.importorskip("matplotlib")
    report.plot_queries(path=tmp_path / "queries.png")
    assert (tmp_path / "queries.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"no eps = 0.3, only 0.1, 0.2"):
        report.plot_queries(0.3)
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert 'aria-label="Attack success rate against queries"' in page and "square-raw, queries = 20:" in page
    assert "· 100 queries</h3>" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "queries must be a whole number of at least 1, not 0"),
        ({"queries": [200, 1.5]}, "queries must be a whole number of at least 1, not 1.5"),
        ({"queries": [-1]}, "queries must be a whole number"),
        ({"queries": "many"}, "queries must be a whole number"),
        ({"queries": []}, "not an empty list"),
        ({"attacks": ["square", "pgd"]}, "PGD.* does not count its queries"),
        ({"attacks": PGD()}, "PGD.* does not count its queries"),
        ({"attacks": "strongest"}, "strongest does not count its queries"),
        ({"attacks": [Boundary(), Boundary(noise="raw")]}, "asked for twice: boundary"),
        ({"attacks": "square", "norm": "l2"}, "Square searches in L∞"),
        ({"attacks": ["square", Square()], "queries": [10, 20], "eps": 0.1, "data": []}, "no batch"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(change, message):
    asked = {"model": trained(), "data": BATCHES, "attacks": "square", "eps": 0.1, "queries": 20} | FAST | change
    with pytest.raises(ValueError, match=message):
        evaluate(**asked)


def test_attack_objects_keep_their_settings():
    pytest.importorskip("foolbox")
    attacks = [Square(share=0.3), Boundary(), HopSkipJump(queries=5)]
    report = evaluate(trained(), BATCHES[:1], attacks, 0.1, queries=40, **FAST)
    assert "share=0.3" in report["square", 0.1, 40].settings
    assert (
        "queries=5" in report["hopskipjump", None, 40].settings and "norm=l2" in report["hopskipjump", 0.1, 40].settings
    )
    named = evaluate(trained(), BATCHES[:1], "hopskipjump", 0.1, queries=40, **FAST)
    assert "norm=inf" in named["hopskipjump", 0.1, 40].settings


def figures(report) -> list:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in report.to_dict()["attacks"]]


def test_killed_it_goes_on_and_a_seed_decides_everything(tmp_path):
    model = trained(True, 0.3)
    asked = {"attacks": ["square", "random"], "eps": 0.2, "queries": [20, 60]} | FAST
    whole = evaluate(model, BATCHES, **asked)

    def killed():
        yield BATCHES[0]
        raise RuntimeError("killed")

    kept = {"path": tmp_path / "r.json", "resume": True}
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(model, killed(), **asked, **kept)
    assert figures(evaluate(model, BATCHES, **asked, **kept)) == figures(whole)
    with pytest.raises(ValueError, match="other attacks"):
        evaluate(model, BATCHES, **(asked | {"queries": [20]}), **kept)


def test_the_raw_figure_stands_beside_whether_asked_for_or_not():
    pytest.importorskip("foolbox")
    for attacks in ("boundary", "boundary-raw", ["boundary", "boundary-raw"], Boundary(noise="raw")):
        report = evaluate(Noisy(), [halves(8)], attacks, 0.1, queries=5, **FAST)
        assert [(entry.attack, entry.eps) for entry in report.entries] == [
            (name, eps) for name in ("boundary", "boundary-raw") for eps in (None, 0.1)
        ]


def test_the_page_quotes_the_measured_table():
    root = Path(__file__).resolve().parents[2]
    measured = (root / "benchmarks" / "results" / "queries.txt").read_text()
    (paragraph,) = (p for p in (root / "docs" / "evaluate.md").read_text().split("\n\n") if "results/queries.txt" in p)
    quoted = re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", paragraph)
    assert len(quoted) == 4 and all(figure in measured for figure in quoted)


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    alone, first, second = alone_and_in_two(tmp_path, "test_queries", 'BATCHES, "square", 0.1, queries=[10, 40]')
    assert alone == first == second and len(alone["attacks"]) == 4


def test_without_queries_square_is_an_attack_like_others():
    report = evaluate(trained(), BATCHES[:1], [Square(budget=50), "random"], 0.1, **FAST)
    assert report["square", 0.1].queries == 50 and report.counted == []
    with pytest.raises(ValueError, match=r"evaluate\(..., queries="):
        report.plot_queries()


def test_transfer_from_the_student_without_noise_needs_no_query():
    student = stocnoise.convert(trained(True), X)
    stocnoise.calibrate(student, [X])
    report = evaluate(
        student.eval(), BATCHES[:1], "square", 0.2, queries=20, transfer_from=stocnoise.revert(student), **FAST
    )
    assert report["transfer", 0.2].queries == 0 and report["transfer", 0.2].asr.value > 0
