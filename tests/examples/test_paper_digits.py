"""The scale `digits` itself, its first seed: what was committed comes out again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from examples.paper import images, recipes, scale, train
from examples.paper.measure import MEASUREMENTS, Subject
from examples.paper.results import Results

RESULTS = Path(__file__).resolve().parents[2] / "examples" / "paper" / "results" / "digits"


@pytest.mark.slow
def test_at_and_the_student_are_as_accurate_and_as_robust_as_the_committed_results_say(tmp_path):
    """Teacher, AT and ANIS² trained anew, and the strongest attack on both; the seeds differ by 4 points at most."""
    digits = scale.load("digits")
    split = images.load(digits.data, tmp_path)
    train.train(digits, split, recipes.teacher(digits), 0, tmp_path)
    teacher = train.trained(digits, split, recipes.teacher(digits), 0, tmp_path)
    committed = Results.read(RESULTS)
    first = dataclasses.replace(committed, lines=[line for line in committed.lines if line.get("seed") == 0])
    for name in ("at", "anis"):
        recipe = recipes.defences(digits)[name]
        train.train(digits, split, recipe, 0, tmp_path)
        model = train.trained(digits, split, recipe, 0, tmp_path)
        found = MEASUREMENTS["strongest"](Subject(digits, split, model, teacher, seed=0))
        clean, asr = first.clean(name), first.figure(name, "strongest", "worst case", digits.training.eps)
        assert clean is not None and asr is not None
        (worst,) = (each for each in found["attacks"] if each["attack"] == "worst case")
        assert found["clean"]["accuracy"] == pytest.approx(clean.value, abs=0.02)
        assert worst["asr"] == pytest.approx(asr.value, abs=0.05)
