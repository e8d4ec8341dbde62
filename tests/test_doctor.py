"""Which implementation serves, said in words: only a missing Triton is passed over in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from stocnoise import aten
from stocnoise.cli import main

TRAIN = """
import sys, types, warnings
import torch
{break_it}
import stocnoise
from stocnoise.implementation import implementation
from stocnoise.errors import KernelsWarning
layer = stocnoise.StocReLUEMA(4)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        layer(torch.randn(2, 4, 3)).sum()
print(implementation(layer.sigma).__name__, int(layer.num_batches_tracked))
print([str(w.message) for w in seen if w.category is KernelsWarning])
"""

BREAKS = {
    "no Triton": ("sys.modules['triton'] = None", ""),
    "no kernels": ("sys.modules['stocnoise.kernels'] = None", "stocnoise.kernels"),
    "half a Triton": ("sys.modules['triton'] = types.ModuleType('triton')", "triton.language"),
    "no part of Triton": ("sys.modules['triton.language'] = None", "triton.language"),
    "a kernel is gone": ("sys.modules['stocnoise.kernels.rows'] = None", "stocnoise.kernels.rows"),
}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # so that a CPU's tensors are the kernels'
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", BREAKS)
def test_only_a_missing_triton_is_passed_over_in_silence(case: str) -> None:
    pytest.importorskip("triton")
    break_it, words = BREAKS[case]
    done = python(TRAIN.format(break_it=break_it))
    assert done.returncode == 0, done.stderr
    served, said = done.stdout.splitlines()
    assert served == "stocnoise.aten 3"
    if words:
        assert said.count("stocnoise.kernels cannot be imported") == 1 and words in said and "doctor" in said
    else:
        assert said == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no Triton", "no kernels"])
def test_the_doctor_tells_why(case: str) -> None:
    pytest.importorskip("triton")
    break_it, words = BREAKS[case]
    done = python(f"import sys, types\n{break_it}\nfrom stocnoise.cli import main\nsys.exit(main(['doctor']))")
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if words else 0)
    assert f"kernels none: {words and 'stocnoise.kernels cannot be imported'}" in done.stdout
    assert ("wrong: stocnoise.kernels cannot be imported" in done.stdout) == bool(words)
    assert ("all is well" in done.stdout) == (not words)


def test_a_sound_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in text and "cpu" in text and "bfloat16" in text
    assert "all is well" in text and "wrong" not in text


def off(values: Tensor) -> Tensor:
    return values + 0.1


@pytest.mark.parametrize(
    ("function", "change", "words"),
    [
        ("forward", lambda found: (off(found[0]), *found[1:]), "y is 0.1"),
        ("perturbed", lambda found: (found[0], found[1] * 2, found[2]), "sigma is"),
        ("backward", off, "the gradient is 0.1"),
    ],
)
def test_an_operation_that_is_wrong_is_found(
    function: str, change: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(aten, function)

    def wrong(*args: Any, **options: Any) -> Any:
        # The noise alone stays right, as the reference is made of it.
        noise = function != "backward" and args[4].activation.name == "identity"
        return right(*args, **options) if noise else change(right(*args, **options))

    monkeypatch.setattr(aten, function, wrong)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert words in text and "float32" in text and "all is well" not in text


def test_an_operation_that_raises_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(aten, "update_sigma", broken)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["doctor"]) == 1
    assert "RuntimeError: no such instruction" in capsys.readouterr().out
