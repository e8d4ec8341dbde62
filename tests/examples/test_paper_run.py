"""examples/paper as a user runs it: one command from the data to the report; killed, it goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from patience import HANG
from safetensors.torch import save_file

from examples.paper import images, networks, recipes, report, scale, train, units

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).with_name("small.toml")
RESULTS = ROOT / "examples" / "paper" / "results"


def command(folder: Path, *more: str) -> list[str]:
    where = ["--work", str(folder / "work"), "--out", str(folder / "results"), "--jobs", "2"]
    return [sys.executable, "-m", "examples.paper", str(SMALL), *where, *more]


def run(folder: Path, *more: str) -> str:
    done = subprocess.run(command(folder, *more), cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was killed after its first trainings, its children left to themselves, and started again."""
    folder = tmp_path_factory.mktemp("paper")
    first = subprocess.Popen(command(folder), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    seen = 0
    for line in first.stdout:
        seen += "training" in line
        if seen == 4:
            break
    time.sleep(1.0)
    first.kill()
    first.communicate(timeout=HANG)  # until the last child has let go of the pipe
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    assert len(done) >= 4
    printed = run(folder)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items()), "a finished training was done again"
    return folder, printed


@pytest.mark.slow
def test_the_report_has_every_table_and_figure(finished):
    folder, printed = finished
    out = folder / "results" / "small"
    text = (out / "report.md").read_text()
    assert f"The report is {out / 'report.md'}." in printed
    for title in (
        "Is the student ahead",
        "come to its end",
        "attacked harder",
        "claims",
        "Table 1",
        "White box",
        "Transfer",
        "Boundary",
        "Ablations",
        "Long",
        "Settings",
    ):
        assert title in text
    pictures = {path.name for path in out.glob("*.png")}
    expected = {"white-box", "transfer", "question", "ablation", "plane", "overfitting"}
    assert pictures == {f"{name}.png" for name in expected}
    assert all(f"({name})" in text for name in pictures)
    for defence in ("None", "AT", "TRADES", "L2P", "ANIS²"):
        assert f"| {defence} |" in text
    verdicts = [line for line in text.splitlines() if "confirmed**" in line or "opposite**" in line]
    assert len(verdicts) >= 12 and "not tested" not in text


@pytest.mark.slow
def test_the_results_say_what_they_rest_on(finished):
    folder, _ = finished
    lines = [json.loads(line) for line in (folder / "results" / "small" / "results.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "scale" and lines[0]["seeds"] == [0, 1]
    measured = [line for line in lines if "settings" in line]
    assert {line["seed"] for line in measured} == {0, 1}
    assert all("torch" in line["settings"]["versions"] for line in measured)
    strongest = [line for line in measured if line["kind"] == "strongest"]
    budgets = {(line["recipe"], e["attack"]): e["gradients_per_image"] for line in strongest for e in line["attacks"]}
    assert budgets["at", "PGD"] == budgets["anis", "PGD"] == 12, "steps × restarts = steps × draws"
    stages = [stage for line in strongest for stage in line["stages"]]
    assert [(stage["steps"], stage["tries"]) for stage in stages] == [(6, 2), (6, 4)] * len(strongest)
    assert all(
        first["images"] == 60 >= second["images"] for first, second in zip(stages[::2], stages[1::2], strict=True)
    )
    assert all(
        next(e for e in line["attacks"] if e["attack"] == "worst case")["robust_accuracy"]
        == line["stages"][-1]["robust_accuracy"]
        for line in strongest
    )
    silent = {line["recipe"] for line in strongest if not line["settings"]["stochastic"]}
    helped = {f"at-{means}" for means in ("awp", "guided", "one-step")}
    assert silent == {"teacher", "at", "at-0.1", "at-no-init", "trades", *helped}
    noisy = {line["recipe"] for line in strongest if line["settings"]["stochastic"]}
    helped = {f"anis-{means}" for means in ("awp", "guided", "one-step", "averaged")}
    assert noisy == {"l2p", "anis", "anis-0.3", "anis-eps-0.1", "no-init-0.1", *helped}
    harder = {line["kind"]: line["stages"] for line in measured if line["kind"].startswith("harder")}
    assert [(stage["steps"], stage["tries"]) for stage in harder["harder"]] == [(6, 2), (6, 6)]
    assert [(stage["steps"], stage["tries"]) for stage in harder["harder-averaged"]] == [(3, 2), (3, 6)]
    mixed = [line for line in measured if line["kind"] == "mixed"]
    assert {line["recipe"] for line in mixed} == {"at", "anis"} and all(line["fit"]["candidates"] for line in mixed)
    planes = [line["recipe"] for line in lines if line["kind"] == "training" and line.get("plane")]
    assert planes == ["at", "anis", "no-at-0.1"]


@pytest.mark.slow
def test_a_scale_without_tables_reports_the_question_alone(finished, tmp_path):
    folder, _ = finished
    shutil.copy(folder / "results" / "small" / "results.jsonl", tmp_path)
    chosen = scale.load(str(SMALL))
    studies = dataclasses.replace(chosen.studies, tables=False)
    text = report.write(dataclasses.replace(chosen, studies=studies), tmp_path).read_text()
    assert text.startswith("# The question that matters on small")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Is the student ahead of adversarial training?",
        "## Long training, on held-out images",
        "## Settings, on held-out images",
    ]
    assert {path.name for path in tmp_path.glob("*.png")} == {"question.png", "overfitting.png"}


@pytest.mark.slow
def test_a_second_call_does_nothing_twice_and_the_report_can_be_written_again(finished):
    folder, _ = finished
    text = (folder / "results" / "small" / "report.md").read_text()
    missing = folder / "work" / "small" / "seed0" / "anis" / "boundary.json"
    missing.unlink()
    printed = run(folder)
    assert printed.count("\n") == 2 and "[1/1] seed 0, ANIS²: boundary" in printed
    assert (folder / "results" / "small" / "report.md").read_text() == text
    shutil.rmtree(folder / "work")
    assert run(folder, "--report").count("\n") == 1
    assert (folder / "results" / "small" / "report.md").read_text() == text


@pytest.mark.slow
def test_a_unit_that_fails_loses_no_other_and_is_named(tmp_path):
    text = SMALL.read_text().replace("seeds = [0, 1]", "seeds = [0]").split("[studies]")[0]
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace("boundary_steps = 20", "boundary_steps = 0"))
    arguments = [sys.executable, "-m", "examples.paper", str(mine), "--work", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 1
    assert "steps must be a whole number of at least 1" in done.stderr and "ANIS²: boundary" in done.stderr
    kinds = {json.loads(line)["kind"] for line in (tmp_path / "mine" / "results.jsonl").read_text().splitlines()}
    assert kinds >= {"plain", "expectation", "strongest", "averaged"} and "boundary" not in kinds


@pytest.mark.slow
def test_other_settings_do_not_mix_with_what_earlier_ones_left(tmp_path):
    chosen = scale.load(str(SMALL))
    units.keep_apart(chosen, tmp_path)
    units.keep_apart(dataclasses.replace(chosen, seeds=(5,), note="Other seeds are no other settings."), tmp_path)
    changed = dataclasses.replace(chosen, attacks=dataclasses.replace(chosen.attacks, eot=7, draws=9))
    with pytest.raises(ValueError, match=r"other attacks\.draws, attacks\.eot.*--work"):
        units.keep_apart(changed, tmp_path)
    path = tmp_path / "small" / "settings.json"
    earlier = json.loads(path.read_text())
    del earlier["attacks"]["harder"]
    path.write_text(json.dumps(earlier))
    units.keep_apart(chosen, tmp_path)  # begun before there was such a setting


def test_a_teacher_may_be_given(tmp_path):
    chosen = scale.load(str(SMALL))
    split = images.load(chosen.data, tmp_path)
    torch.manual_seed(5)
    given = networks.network(chosen.network, chosen.width, split.channels, split.classes)
    save_file(given.state_dict(), tmp_path / "given.safetensors")
    units.take_teacher(tmp_path / "given.safetensors", chosen, tmp_path, tmp_path)
    for seed in chosen.seeds:
        teacher = train.trained(chosen, split, recipes.teacher(chosen), seed, tmp_path)
        assert torch.equal(teacher.model.conv.weight, given.conv.weight)
    wider = dataclasses.replace(chosen, width=16, name="wider")
    with pytest.raises(ValueError, match="does not fit resnet8 of width 16"):
        units.take_teacher(tmp_path / "given.safetensors", wider, tmp_path, tmp_path)


def test_without_results_the_report_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the scale first"):
        report.write(scale.load("digits"), tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*")))
def test_the_committed_report_is_that_of_the_committed_results(name, tmp_path):
    shutil.copy(RESULTS / name / "results.jsonl", tmp_path)
    text = report.write(scale.load(name), tmp_path).read_text()
    assert text == (RESULTS / name / "report.md").read_text()
