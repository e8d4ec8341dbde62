"""`stocnoise inspect MODEL`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stocnoise.cli import main


def test_it_prints_every_site_and_what_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mobilenetv3_small_050"]) == 0
    text = capsys.readouterr().out
    assert "mobilenetv3_small_050: 33 sites" in text
    assert "hardswish" in text
    assert "left alone:" in text and "hardsigmoid (a gate" in text


def test_shared_and_functional_calls_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "torchvision/resnet18", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert [site["kind"] for site in sites].count("shared") == 16
    assert main(["inspect", "googlenet", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert {site["kind"] for site in sites} == {"functional"}


def test_no_weights_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
import resource
from stocnoise.cli import main
import timm, torchvision
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
main(["inspect", "vit_giant_patch14_224"])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 300  # MiB; the weights would be 3,900


def test_size_and_exclusion_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet10t", "--input", "3", "64", "64", "--exclude", "layer4.*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not any(site["layer"].startswith("layer4") for site in found["sites"])
    assert {"layer4.0.act1", "layer4.0.act2"} <= {item["name"] for item in found["left"]}


def test_a_model_that_is_refused_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet10t", "--input", "5", "64", "64"]) == 1
    assert "resnet10t is refused: the model did not run" in capsys.readouterr().err


def test_an_unknown_name_suggests_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet500"]) == 2
    assert "did you mean resnet50" in capsys.readouterr().err
