"""Files that earlier versions wrote load for ever, and answer as they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import stocnoise
from tests.file_models import Block, Tokens, images, outputs, words

FILES = Path(__file__).parent / "files"


@pytest.mark.parametrize(("name", "model", "given"), [("block", Block, (images(),)), ("tokens", Tokens, words())])
def test_a_student_of_version_1_answers_as_it_did(name: str, model: type[nn.Module], given: Any) -> None:
    path = FILES / f"{name}-v1.safetensors"
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata()["version"] == "1"
    found = outputs(stocnoise.load(path, model()), given)
    expected = load_file(FILES / f"{name}-v1.outputs.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_a_student_of_version_3_has_noise_on_its_input() -> None:
    path = FILES / "block-v3.safetensors"
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata()["version"] == "3"
    student = stocnoise.load(path, Block())
    assert isinstance(student, stocnoise.InputNoise) and student.sigma == 0.25
    expected = load_file(FILES / "block-v3.outputs.safetensors")["quiet"]
    torch.testing.assert_close(outputs(student, (images(),))["quiet"], expected, rtol=1e-4, atol=1e-5)


def test_alpha_and_the_noise_of_each_layer_come_back() -> None:
    block = dict(stocnoise.stochastic_layers(stocnoise.load(FILES / "block-v1.safetensors", Block())))
    assert sorted(layer.alpha for layer in block.values()) == [0.25, 0.25, 0.75]
    tokens = dict(stocnoise.stochastic_layers(stocnoise.load(FILES / "tokens-v1.safetensors", Tokens())))
    assert {path: type(layer) for path, layer in tokens.items()} == {
        "mix.1": stocnoise.StocFixed,
        "mix.3": stocnoise.StocSiLUEMA,
    }
