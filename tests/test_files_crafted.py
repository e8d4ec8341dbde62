"""Files whose checksum is right and whose contents cannot be: refused by the field's name before anything is built."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import stocnoise
from stocnoise import storage
from stocnoise.errors import FileFormatError
from tests.file_models import EXAMPLE, Block


def rewritten(path: Path, change: Callable[[Any, dict[str, Tensor]], object]) -> Path:
    """The file with what `change` makes of its JSON and its tensors, and a checksum of that."""
    with safe_open(str(path), framework="pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    about = json.loads(header["stocnoise"])
    change(about, tensors)
    header["stocnoise"] = json.dumps(about)
    header["sha256"] = storage._digest(header["kind"], header["stocnoise"], tensors)
    save_file(tensors, path, metadata=header)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    student = stocnoise.convert(Block(), EXAMPLE)
    student(torch.randn(4, 3, 8, 8))
    stocnoise.save(student, tmp_path / "student.safetensors")
    return tmp_path / "student.safetensors"


def in_json(*keys: Any, value: Any) -> Callable[[Any, dict[str, Tensor]], object]:
    def change(about: Any, tensors: dict[str, Tensor]) -> None:
        for key in keys[:-1]:
            about = about[key]
        about[keys[-1]] = value

    return change


def in_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any, dict[str, Tensor]], object]:
    return lambda about, tensors: tensors.update({name: change(tensors[name])})


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


SHAPE = ("example", 0, 0, "shape")
CASES = {
    "240 GB": (in_json(*SHAPE, value=[245_000, 245_000]), r"example must take at most 1\.1 GB, not 240"),
    "more than strides can say": (in_json(*SHAPE, value=[0, 2**62, 2**62]), "example must take at most"),
    "a shape of text": (in_json(*SHAPE, value="x"), r"example\[0\]\[0\]\.shape must be a list"),
    "a negative size": (in_json(*SHAPE, value=[-1, 3]), r"shape\[0\] must be a whole number"),
    "a dtype that is none": (in_json("example", 0, 0, "dtype", value="nn"), r"example\[0\]\[0\]\.dtype must be one of"),
    "no example's form": (in_json("example", value=7), "example must be a list of two"),
    "nested deeply": (in_json("example", 0, 0, value=nested(500)), r"example\[0\].* is nested more than 100 deep"),
    "values that do not fit": (in_json("example", 0, 0, "values", value=[1, 2]), r"example\[0\]\[0\]\.values must be"),
    "input noise of nothing": (in_json("input_noise", value=0), "input_noise must be above 0, not 0"),
    "input noise of text": (in_json("input_noise", value="x"), "input_noise must be a finite number"),
    "endless input noise": (in_json("input_noise", value=float("inf")), "input_noise must be a finite number"),
    "a layer of text": (in_json("layers", 1, value="x"), r"layers\[1\] must be an object"),
    "a layer's key missing": (lambda about, _: about["layers"][2].pop("alpha"), r"layers\[2\]\.alpha is missing"),
    "a layer's key too many": (in_json("layers", 0, "x", value=1), r"layers\[0\]\.'x' is not known"),
    "a key missing": (lambda about, _: about.pop("aliases"), "aliases is missing"),
    "alpha is text": (in_json("layers", 0, "alpha", value="x"), r"layers\[0\]\.alpha must be .* from 0 to 1, not 'x'"),
    "alpha is 7": (in_json("layers", 0, "alpha", value=7), r"layers\[0\]\.alpha must be .* from 0 to 1, not 7"),
    "alpha is true": (in_json("layers", 0, "alpha", value=True), r"layers\[0\]\.alpha"),
    "gamma is negative": (in_json("layers", 0, "gamma", value=-1), r"layers\[0\]\.gamma must be .* at least 0"),
    "gamma is NaN": (in_json("layers", 0, "gamma", value=float("nan")), r"layers\[0\]\.gamma"),
    "gamma is another": (in_json("layers", 0, "gamma", value=0.5), r"gamma must be one number, 0\.5, as layers\[0\]"),
    "gamma's tensor is NaN": (in_tensor("gelu_0.gamma", lambda t: t * torch.nan), r"gelu_0\.gamma must be"),
    "sigma is negative": (in_tensor("gelu_0.sigma", lambda t: -t), r"gelu_0\.sigma must be finite and at least 0"),
    "sigma is NaN": (in_tensor("gelu_0.sigma", lambda t: t * torch.nan), r"gelu_0\.sigma must be finite"),
    "sigma is whole": (in_tensor("gelu_0.sigma", lambda t: t.int()), r"gelu_0\.sigma must be 8 floating-point"),
    "sigma is short": (in_tensor("gelu_0.sigma", lambda t: t[:3]), r"gelu_0\.sigma must be 8 .*layers\[2\]\.channels"),
    "a negative count": (in_tensor("gelu_0.num_batches_tracked", lambda t: -t), "num_batches_tracked must be"),
    "weights are whole": (in_tensor("one.weight", lambda t: t.int()), r"one\.weight is .*int32 in the file"),
    "weights are complex": (in_tensor("one.weight", lambda t: t.cfloat()), r"one\.weight is .*complex in the file"),
    "a count of fractions": (in_tensor("norm.num_batches_tracked", lambda t: t / 2), r"norm\.num_batches_tracked is"),
    "another kind of site": (in_json("layers", 0, "kind", value="x"), r"layers\[0\]\.kind must be one of"),
    "a layer twice": (lambda about, _: about["layers"].append(about["layers"][0]), r"layers\[3\]\.path must be of one"),
    "noise is a module": (in_json("layer", value="warnings"), "noise is a warnings"),
    "a layer is a function": (in_json("layers", 0, "class", value="cast"), "noise is a cast"),
    "an alias of nothing": (in_json("aliases", "x", value="y"), r"aliases\['x'\] must be"),
    "an alias of a tensor": (in_json("aliases", "one.bias", value="two.bias"), r"aliases\['one\.bias'\]"),
    "std is 0 less": (
        in_json("normalization", value={"": {"mean": 0.5, "std": -1}}),
        r"normalization\[''\]\.std must be a finite number",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_its_field(case: str, path: Path) -> None:
    change, words = CASES[case]
    teacher = Block()
    before = copy.deepcopy(teacher.state_dict())
    with pytest.raises(FileFormatError, match=words):
        stocnoise.load(rewritten(path, change), teacher)
    assert not list(stocnoise.stochastic_layers(teacher))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("body", ["[" * 100_000, "9" * 5000, "", "{"])
def test_what_is_no_json_is_refused(body: str, path: Path) -> None:
    tensors = {"x": torch.zeros(1)}
    digest = storage._digest("student", body, tensors)
    save_file(tensors, path, {"stocnoise": body, "version": "1", "kind": "student", "sha256": digest})
    with pytest.raises(FileFormatError, match="cannot be read as JSON"):
        stocnoise.load(path, Block())


@pytest.mark.parametrize("version", ["0", "²", "x", "9" * 5000, "-1"])
def test_what_is_no_version_is_refused(version: str, path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path, {"stocnoise": "{}", "version": version, "kind": "student"})
    with pytest.raises(FileFormatError, match="version"):
        stocnoise.load(path, Block())


def test_a_student_in_half_precision_still_loads_into_a_model_that_is_not(tmp_path: Path) -> None:
    student = stocnoise.convert(Block().half(), EXAMPLE.half())
    stocnoise.save(student, tmp_path / "s")
    loaded = stocnoise.load(tmp_path / "s", Block(), EXAMPLE)
    assert torch.equal(loaded.one.weight, student.one.weight.float())


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda layer: layer.sigma.fill_(torch.nan), "sigma must be finite"),
        (lambda layer: layer.gamma.fill_(-1), r"layers\[0\]\.gamma"),
        (lambda layer: setattr(layer, "alpha", 2), r"layers\[0\]\.alpha"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(break_it: Any, words: str, tmp_path: Path) -> None:
    student: nn.Module = stocnoise.convert(Block(), EXAMPLE)
    break_it(next(iter(dict(stocnoise.stochastic_layers(student)).values())))
    with pytest.raises(ValueError, match=words):
        stocnoise.save(student, tmp_path / "s")
    assert not list(tmp_path.iterdir())
