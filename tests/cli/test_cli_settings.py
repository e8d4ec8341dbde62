"""Flags and files of settings, and what a wrong one ends in."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from stocnoise.cli import evaluate, finetune, main, predict, settings


def gather(*arguments: str) -> evaluate.Settings:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, evaluate.Settings)
    return settings.read(evaluate.Settings, parser.parse_args(arguments))


def test_a_flag_comes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('model = "resnet18"\ndata = "x"\neps = [1, 2.5]\ntransfer = true\nsteps = 5\n')
    found = gather("--settings", str(file), "--steps", "7", "--no-transfer")
    assert found == evaluate.Settings("resnet18", "x", eps=(1.0, 2.5), transfer=False, steps=7)


def test_budgets_of_queries_are_several_or_none() -> None:
    assert gather("resnet18", "--data", "x", "--queries", "200", "1000").queries == (200, 1000)
    assert gather("resnet18", "--data", "x").queries == ()


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    asked = evaluate.Settings('a "quoted"\nναμε\\', "x", eps=(1e-30, 8.0), attacks=("pgd",), half=True)
    settings.write(asked, tmp_path / "a.toml")
    assert gather("--settings", str(tmp_path / "a.toml")) == asked


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    asked = finetune.Settings("resnet18", "x", "out")
    settings.keep(asked, tmp_path, free=("workers",))
    settings.keep(finetune.Settings("resnet18", "x", "out", workers=9), tmp_path, free=("workers",))
    with pytest.raises(ValueError, match=r"epochs \(10, now 3\); give another --out"):
        settings.keep(finetune.Settings("resnet18", "x", "out", epochs=3), tmp_path, free=("workers",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 'x'", "steps must be a whole number, not 'x'"),
        ("steps = true", "steps must be a whole number, not True"),
        ("eps = 8", "eps must be a list, not 8"),
        ("eps = ['a']", "eps must be a number, not 'a'"),
        ("colour = 1", "colour is no setting of this command"),
        ("steps = ", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert main(["evaluate", "resnet18", "--data", "x", "--settings", str(file)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["evaluate", "resnet18"], 2, "--data is missing"),
        (["evaluate", "--data", "x"], 2, "MODEL is missing"),
        (["evaluate", "resnet500", "--data", "x"], 2, "did you mean resnet50"),
        (["evaluate", "no_such_module:f", "--data", "."], 1, "find any class"),
        (["evaluate", "resnet18", "--data", "nowhere"], 1, "there is no folder nowhere"),
        (["predict", "resnet18", "nowhere.png"], 1, "there is no image nowhere.png"),
        (["predict", "resnet18"], 2, "IMAGES is missing"),
        (["evaluate", "resnet18", "--data", "x", "--settings", "nowhere.toml"], 1, "nowhere.toml"),
        (["inspect", "no_such_module:f"], 2, "there is no module no_such_module"),
        (["inspect", "json:nothing"], 2, "json has no function nothing"),
        (["inspect", "platform:node"], 2, "platform:node returns a str, not a module"),
    ],
)
def test_wrong_calls_end_in_a_sentence_and_a_status(
    arguments: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    assert main(arguments) == status
    assert words in capsys.readouterr().err


NUMBERS = [
    (command, one.name)
    for command, cls in (
        ("evaluate", evaluate.Settings),
        ("predict", predict.Settings),
        ("finetune", finetune.Settings),
    )
    for one in fields(cls)
    if any(kind in str(one.type) for kind in ("int", "float"))
]


@pytest.mark.parametrize(("command", "name"), NUMBERS)
@pytest.mark.parametrize("written", [False, True], ids=["flag", "file"])
def test_a_number_out_of_range_is_refused_before_anything_is_done(
    command: str,
    name: str,
    written: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = str(-(2**70)) if name == "seed" else "-1"
    arguments = [command, "resnet500", *(["x.png"] if command == "predict" else ["--data", "x", "--out", "out"])]
    if written:
        several = command == "evaluate" and name in ("eps", "queries")
        Path("a.toml").write_text(f"{name} = {f'[{wrong}]' if several else wrong}\n")
        status = main([*arguments, "--settings", "a.toml"])
    else:
        status = main([*arguments, f"--{name.replace('_', '-')}={wrong}"])
    assert status == 2
    assert f"--{name.replace('_', '-')} must be a " in capsys.readouterr().err
    assert not Path("out").exists()


def test_folders_of_different_classes_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, name in (("train", "a"), ("val", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        (tmp_path / part / name / "0.png").write_bytes((folder / "train" / "a" / "0.png").read_bytes())
    out = tmp_path / "out"
    assert main(["finetune", "test_resnet", "--data", str(tmp_path), "--out", str(out), "--random"]) == 2
    assert "different classes" in capsys.readouterr().err and not out.exists()
