"""A timm model on a folder of images, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from patience import HANG
from PIL import Image

import stocnoise

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "timm_imagenet.py"
MODEL = "test_resnet"  # timm's own tiny test model, 160² images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of one colour each, so that a head can learn them."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label in range(3):
            (root / part / "abc"[label]).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 60, (170, 170, 3), dtype=np.uint8)
                pixels[..., label] += 180
                Image.fromarray(pixels).save(root / part / "abc"[label] / f"{i}.png")
    return root


@pytest.mark.slow
def test_a_folder_becomes_a_student_and_a_second_call_goes_on(folder, tmp_path):
    command = [sys.executable, SCRIPT, "--data", folder, "--out", tmp_path, "--model", MODEL, "--random"]
    small = {
        "epochs": 1,
        "head-epochs": 1,
        "batch": 8,
        "workers": 0,
        "images": 6,
        "steps": 1,
        "attack-steps": 1,
        "eot": 1,
    }
    command += [part for name, value in small.items() for part in (f"--{name}", value)]

    def run() -> str:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=HANG, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run()
    assert "A new head for 3 classes" in printed and "worst case" in printed
    student = stocnoise.load(tmp_path / "student.safetensors", timm_model())
    assert all(layer.sigma.min() > 0 for _, layer in stocnoise.stochastic_layers(student))
    evaluated = evaluate("--weights", tmp_path / "student.safetensors", "--data", folder / "val")
    assert "student.safetensors: 6 images, stochastic" in evaluated
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["stochastic"] and report["settings"]["images"] == 6
    assert {entry["attack"] for entry in report["attacks"]} == {"pgd", "apgd", "transfer", "worst case"}
    assert (tmp_path / "history.png").stat().st_size > 5000
    run()
    again = stocnoise.load(tmp_path / "student.safetensors", timm_model()).state_dict()
    assert all(torch.equal(again[name], value) for name, value in student.state_dict().items())


def evaluate(*arguments: object) -> str:
    small = {"model": MODEL, "attacks": "bim", "eps": 2, "steps": 1, "eot": 1, "draws": 2, "images": 6, "workers": 0}
    options = [part for name, value in small.items() for part in (f"--{name}", value)]
    command = [sys.executable, SCRIPT.with_name("evaluate_timm.py"), *options, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_students_of_the_bare_model_and_checkpoints_are_evaluated_too(folder, tmp_path):
    bare = timm.create_model(MODEL, num_classes=3)
    student = stocnoise.convert(bare)
    stocnoise.calibrate(student, [torch.rand(4, 3, 160, 160)])
    stocnoise.save(student, tmp_path / "bare.safetensors")
    torch.save(bare.state_dict(), tmp_path / "weights.pth")
    for name, kind in (("bare.safetensors", "stochastic"), ("weights.pth", "deterministic")):
        assert f"{name}: 6 images, {kind}" in evaluate("--weights", tmp_path / name, "--data", folder / "val")


def timm_model() -> torch.nn.Module:
    bare = timm.create_model(MODEL, num_classes=3)
    return stocnoise.normalized(bare, bare.pretrained_cfg["mean"], bare.pretrained_cfg["std"])


def test_folders_of_different_classes_are_refused(folder, tmp_path):
    for part, name in (("train", "a"), ("val", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        (tmp_path / part / name / "0.png").write_bytes((folder / "train" / "a" / "0.png").read_bytes())
    command = [sys.executable, SCRIPT, "--data", tmp_path, "--out", tmp_path, "--model", MODEL, "--random"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode != 0 and "different classes" in done.stderr
