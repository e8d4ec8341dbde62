"""`stocnoise finetune`, `evaluate` and `predict` on a folder of images: each reads what the one before wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from patience import HANG
from torch import nn

import stocnoise
from stocnoise.cli import main
from stocnoise.training.checkpoints import Checkpoints, read

MODEL = "test_resnet"  # timm's own tiny test model
SMALL = {"size": 32, "head-epochs": 1, "batch": 8, "workers": 0, "images": 6, "steps": 1, "attack-steps": 1, "eot": 1}
EVALUATE = {"attacks": "bim", "eps": 2, "steps": 1, "eot": 1, "draws": 2, "images": 6, "workers": 0}


def flags(settings: dict[str, object]) -> list[str]:
    return [str(part) for name, value in settings.items() for part in (f"--{name}", value)]


def finetune(folder: Path, out: Path, epochs: int = 1) -> list[str]:
    where = ["--data", str(folder), "--out", str(out), "--epochs", str(epochs), "--draws", "2"]
    return ["finetune", MODEL, "--random", "--no-progress", *where, *flags(SMALL)]


def timm_model() -> nn.Module:
    return stocnoise.normalized(timm.create_model(MODEL, num_classes=3))


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state.pop(key)) for key, value in one.state_dict().items()) and not state


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "a"
    assert main(finetune(folder, out)) == 0
    return out


@pytest.mark.slow
def test_a_folder_becomes_a_student_with_card_report_and_pictures(finished: Path, folder: Path) -> None:
    student = stocnoise.load(finished / "student.safetensors", timm_model())
    assert all(layer.sigma.min() > 0 for _, layer in stocnoise.stochastic_layers(student))
    assert same(stocnoise.hub.load(finished), student)
    report = json.loads((finished / "report.json").read_text())
    assert report["settings"]["stochastic"] and report["settings"]["images"] == 6
    assert {entry["attack"] for entry in report["attacks"]} == {"pgd", "apgd", "transfer", "worst case"}
    assert all((finished / name).stat().st_size > 5000 for name in ("history.png", "asr.png", "report.html"))
    assert (finished / "classes.txt").read_text() == "a\nb\nc\n"
    assert "- objective: at" in str(ModelCard.load(finished / "README.md"))
    assert 'model = "test_resnet"' in (finished / "settings.toml").read_text()


@pytest.mark.slow
def test_a_second_call_changes_nothing(finished: Path, folder: Path, command: Callable[..., str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != "settings.toml"}
    assert "is complete" in command(*finetune(folder, finished))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_student(folder: Path, tmp_path: Path) -> None:
    def start(out: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "stocnoise.cli", *finetune(folder, tmp_path / out, epochs=3)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start("killed")
    begun = time.monotonic()
    while not list((tmp_path / "killed").glob("checkpoints/student/*.safetensors")):
        assert killed.poll() is None and time.monotonic() - begun < HANG, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate(timeout=HANG)
    assert not (tmp_path / "killed" / "report.json").exists()
    for out in ("killed", "whole"):
        process = start(out)
        printed, errors = process.communicate(timeout=HANG)
        assert process.returncode == 0, errors
        assert "A new head for 3 classes" in printed and "worst case" in printed
        assert "CPU thread" in errors
    students = [stocnoise.hub.load(tmp_path / out) for out in ("killed", "whole")]
    assert same(*students)


@pytest.mark.slow
def test_with_images_held_out_the_student_is_that_of_the_best_epoch(
    folder: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    printed = command(*finetune(folder, out, epochs=3), "--hold-out", 6, "--warmup", 1.5)
    run = read(Checkpoints(out / "checkpoints" / "student").paths()[-1])
    assert [epoch["eps"] for epoch in run["history"]] == pytest.approx([4 / 255 * 2 / 3, 4 / 255, 4 / 255])
    assert run["settings"]["batches"] == 2  # of 24 - 6 images
    best = run["best"]["epoch"]
    assert f"The student is that of epoch {best} of 3: " in printed and " on 6 images held out" in printed
    student = stocnoise.load(out / "student.safetensors", timm_model())
    assert all(torch.equal(value, run["best"]["model"][name]) for name, value in student.state_dict().items())
    assert f"- best_epoch: {best}" in str(ModelCard.load(out / "README.md"))


@pytest.mark.parametrize(("flag", "value"), [("--hold-out", 17), ("--hold-out", -1), ("--warmup", -0.5)])
def test_what_cannot_be_is_refused_by_its_flag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: float
) -> None:
    assert main([*finetune(folder, tmp_path / "out"), f"{flag}={value}"]) == 2
    assert flag in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_it_wrote_is_evaluated(finished: Path, folder: Path, tmp_path: Path, command: Callable[..., str]) -> None:
    data = ["--data", folder / "val", "--size", 32, "--no-progress", *flags(EVALUATE)]
    assert f"{finished}: 6 images, stochastic" in command("evaluate", finished, *data, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["eps"] for entry in report["attacks"] if entry["attack"] == "bim"] == [2 / 255]
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("asr.png", "report.html"))
    again = command("evaluate", "--settings", tmp_path / "settings.toml")
    assert "6 images, stochastic" in again and "2/255" in again
    assert list((tmp_path / "report.json.batches").iterdir()), "what is done is kept, for a call that goes on"
    assert main(["evaluate", "--settings", str(tmp_path / "settings.toml"), "--steps", "2"]) == 2
    file = finished / "student.safetensors"
    assert "student.safetensors: 6 images, stochastic" in command("evaluate", MODEL, "--weights", file, *data)


@pytest.mark.slow
def test_students_of_the_bare_model_and_checkpoints_are_evaluated_too(
    folder: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    bare = timm.create_model(MODEL, num_classes=3)
    student = stocnoise.convert(bare)
    stocnoise.calibrate(student, [torch.randn(4, 3, 32, 32)])
    stocnoise.save(student, tmp_path / "bare.safetensors")
    torch.save(bare.state_dict(), tmp_path / "weights.pth")
    data = ["--data", folder / "val", "--size", 32, "--no-progress", *flags(EVALUATE)]
    for name, kind in (("bare.safetensors", "stochastic"), ("weights.pth", "deterministic")):
        assert f"{name}: 6 images, {kind}" in command("evaluate", MODEL, "--weights", tmp_path / name, *data)


@pytest.mark.slow
def test_it_is_asked_about_images(finished: Path, folder: Path, command: Callable[..., str]) -> None:
    asked = ["predict", finished, folder / "val" / "a", folder / "val" / "b" / "0.png", "--size", 32, "--samples", 3]
    lines = [json.loads(line) for line in command(*asked, "--json").splitlines()]
    assert [Path(line["image"]).parts[-2:] for line in lines] == [("a", f"{i}.png") for i in range(4)] + [
        ("b", "0.png")
    ]
    assert {line["class"] for line in lines} <= set("abc")
    assert all(1 / 3 <= line["probability"] <= 1 and line["agreement"] in (0.3333, 0.6667, 1.0, 0.0) for line in lines)
    assert any(line["spread"] > 0 for line in lines)
    table = command(*asked).splitlines()
    assert table[0].split() == ["image", "class", "probability", "spread", "agreement"] and len(table) == 7


OWN = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
"""


@pytest.mark.slow
def test_a_model_of_ones_own(
    folder: Path, tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_the_command.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name, out = "mine_of_the_command:model", tmp_path / "out"
    assert f"{name}: 1 sites" in command("inspect", name, "--input", 3, 32, 32)
    settings = tmp_path / "mine.toml"
    settings.write_text(f'model = "{name}"\ndata = "{folder}"\nout = "{out}"\nepochs = 9\nprogress = false\nlr = 1\n')
    assert "worst case" in command("finetune", "--settings", settings, "--epochs", 1, "--draws", 2, *flags(SMALL))
    assert "epochs = 1\n" in (out / "settings.toml").read_text()
    data = ["--data", folder / "val", "--size", 32, "--no-progress", *flags(EVALUATE)]
    assert "6 images, stochastic" in command("evaluate", name, "--weights", out, *data)
    assert main(["evaluate", str(out), "--data", str(folder / "val")]) == 2
