"""The example for timm models, run as a user runs it."""

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

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "evaluate_timm.py"
MODEL = "test_resnet"  # timm's own tiny test model, 160² images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for label in range(3):
        (root / "data" / str(label)).mkdir(parents=True)
        for i in range(2):
            image = pixels.integers(0, 255, (170, 170, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "data" / str(label) / f"{i}.png")
    torch.manual_seed(0)
    teacher = timm.create_model(MODEL, num_classes=3)
    torch.save(teacher.state_dict(), root / "teacher.pth")
    student = stocnoise.convert(teacher)
    stocnoise.calibrate(student, [torch.randn(4, 3, 160, 160)])
    stocnoise.save(student, root / "student.safetensors")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["student.safetensors", "teacher.pth"])
def test_evaluates_a_student_or_a_checkpoint(folder, weights, tmp_path):
    command = [sys.executable, SCRIPT, "--model", MODEL, "--classes", "3", "--weights", folder / weights]
    command += ["--data", folder / "data", "--attacks", "pgd", "--eps", "4", "--eot", "1", "--steps", "1"]
    command += ["--json", tmp_path / "report.json", "--plot", tmp_path / "asr.png", "--draws", "2"]
    command += ["--images", "3"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    assert "clean accuracy" in done.stdout and "4/255" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["stochastic"] == (weights != "teacher.pth") and report["settings"]["images"] == 3
    assert (tmp_path / "asr.png").stat().st_size > 5000
