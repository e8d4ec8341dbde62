"""`python -m benchmarks.collapse`: a line a run, once, and what it calls a collapse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import collapse
from examples.paper import train

SMALL = Path(__file__).parents[1] / "examples" / "small.toml"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "collapse"


@pytest.mark.slow
def test_every_run_leaves_a_line_and_is_made_once(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    asked = [str(SMALL), "--eps", "0.3", "--epochs", "2", "--gammas", "0", "0.1", "--attacks", "FGSM", "N-FGSM"]
    asked += ["--seeds", "0", "--work", str(tmp_path), "--out", str(out)]
    collapse.main(asked)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    runs = [("FGSM", 0.0), ("FGSM", 0.1), ("N-FGSM", 0.0), ("N-FGSM", 0.1)]
    assert [(line["attack"], line["gamma"]) for line in lines] == runs
    assert all(len(line["robust"]) == line["epochs"] == 2 and line["last"] == line["robust"][-1] for line in lines)
    assert all(line["best"] == max(line["robust"]) for line in lines)
    table = out.with_suffix(".txt").read_text()
    assert table in capsys.readouterr().out and all(name in table for name, _ in runs)

    monkeypatch.setattr(train.stocnoise, "finetune", lambda *_, **__: pytest.fail("a run is made again"))
    collapse.main(asked)
    assert len(out.read_text().splitlines()) == 4

    other = tmp_path / "small.toml"
    other.write_text(SMALL.read_text().replace("batch_size = 64", "batch_size = 50"))
    with pytest.raises(SystemExit):
        collapse.main([str(other), *asked[1:]])
    assert "begun with other training.batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("robust", "training", "expected"),
    [
        ([0.3, 0.6, 0.2], 0.5, True),  # less than half of its best
        ([0.02, 0.03, 0.03], 0.5, True),  # never more than its own attack hides
        ([0.1, 0.3, 0.2], 0.5, False),
    ],
)
def test_what_a_collapse_is(robust, training, expected):
    assert collapse.collapsed(robust, training) == expected


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_committed_table_is_that_of_the_committed_lines(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert "\n".join(collapse.shown(lines)) + "\n" == path.with_suffix(".txt").read_text()
    assert all(line["collapsed"] == collapse.collapsed(line["robust"], line["training"]) for line in lines)


def test_the_table_counts_the_runs_that_lost_half_of_their_best():
    same = {"eps": 0.1, "epochs": 3, "clean": 0.9, "training": 0.8}
    runs = [(0.0, 0.6, 0.1, True), (0.0, 0.4, 0.3, False), (0.1, 0.5, 0.5, False)]
    lines = [
        same | {"attack": "FGSM", "gamma": gamma, "best": best, "last": last, "collapsed": collapsed}
        for gamma, best, last, collapsed in runs
    ]
    head, _, at, student = (line.split() for line in collapse.shown(lines))
    assert head[0] == "attack"
    assert at[2] == "AT" and at[-5:] == ["50.0", "20.0", "1", "of", "2"]
    assert student[2] == "0.1" and student[-5:] == ["50.0", "50.0", "0", "of", "1"]
