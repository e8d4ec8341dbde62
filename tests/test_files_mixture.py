"""save and load of mixtures: both halves, students or not, in one file, and every field looked at first."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import stocnoise
from stocnoise.errors import FileFormatError
from stocnoise.evaluation import Averaged, Voting
from stocnoise.mixture import Blend, Mixture
from tests.file_models import EXAMPLE, Block, images
from tests.test_files_crafted import in_json, in_tensor, rewritten


class Teacher(nn.Module):
    """Another architecture, of the same classes, whose state holds integers and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 8, bias=False)
        self.tied = nn.Linear(4, 8, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.norm(self.conv(x)).relu().mean((2, 3)))


def student() -> nn.Module:
    torch.manual_seed(1)
    made = stocnoise.convert(Block(), EXAMPLE, alpha=0.25, gamma=0.1)
    made(images())
    return made.eval()


def teacher() -> nn.Module:
    torch.manual_seed(2)
    made = Teacher()
    made(images())
    return made.eval()


def mixture(**settings: Any) -> Mixture:
    return stocnoise.mix(student(), teacher(), **{"weight": 0.6, "scale": 8.0, "temperature": 0.5, **settings}).eval()


def empty() -> Mixture:
    return stocnoise.mix(Block(), Teacher()).eval()


def answer(model: nn.Module) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return model.eval()(images())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stocnoise.save(mixture(), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_it_comes_back_whole(path: Path) -> None:
    given = empty()
    before = copy.deepcopy(given.state_dict())
    loaded = stocnoise.load(path, given)
    assert isinstance(loaded, Mixture) and loaded.blend == Blend(0.6, 8.0, 0.5)
    assert torch.equal(answer(loaded), answer(mixture()))
    assert [layer.alpha for _, layer in stocnoise.stochastic_layers(loaded.student)] == [0.25] * 3
    assert loaded.teacher.head.weight is loaded.teacher.tied.weight and not loaded.training
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items()), "what is given stays"
    with safe_open(str(path), "pt") as file:
        assert file.metadata()["version"] == "4"


def test_two_models_without_noise_come_back(tmp_path: Path) -> None:
    whole = stocnoise.mix(teacher(), Block().eval(), weight=0.7)
    stocnoise.save(whole, tmp_path / "m")
    loaded = stocnoise.load(tmp_path / "m", stocnoise.mix(Teacher(), Block()))
    assert torch.equal(answer(loaded), answer(whole)) and not list(stocnoise.stochastic_layers(loaded))


@pytest.mark.parametrize("predictor", [Averaged, Voting])
def test_an_average_comes_back(predictor: type[Averaged], tmp_path: Path) -> None:
    whole = stocnoise.mix(predictor(student(), 5), teacher())
    stocnoise.save(whole, tmp_path / "m")
    for given in (empty(), stocnoise.mix(Averaged(Block(), 2), Teacher())):
        loaded = stocnoise.load(tmp_path / "m", given)
        assert type(loaded.student) is predictor and loaded.student.samples == 5
        assert torch.equal(answer(loaded), answer(whole))


def test_mean_and_std_noise_on_the_input_and_compiled_halves(tmp_path: Path) -> None:
    noisy = stocnoise.with_input_noise(stocnoise.normalized(student(), 0.5, 0.25), 0.1)
    plain = stocnoise.normalized(teacher(), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    whole = stocnoise.mix(noisy, plain, weight=0.6)
    compiled = torch.compile(stocnoise.mix(torch.compile(noisy), torch.compile(plain), weight=0.6))
    stocnoise.save(whole, tmp_path / "m")
    stocnoise.save(compiled, tmp_path / "c")
    given = stocnoise.mix(
        stocnoise.normalized(Block(), 0.5, 0.25), stocnoise.normalized(Teacher(), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    )
    for name in ("m", "c"):
        assert torch.equal(answer(stocnoise.load(tmp_path / name, given)), answer(whole))
    with pytest.raises(FileFormatError, match=r"teacher holds a student normalized with mean .* not normalized"):
        stocnoise.load(tmp_path / "m", stocnoise.mix(given.student, Teacher()))


def test_noise_in_front_of_a_mixture_comes_back(tmp_path: Path) -> None:
    whole = stocnoise.with_input_noise(mixture(), 0.1)
    stocnoise.save(whole, tmp_path / "m")
    loaded = stocnoise.load(tmp_path / "m", empty())
    assert isinstance(loaded, stocnoise.InputNoise) and torch.equal(answer(loaded), answer(whole))


def test_what_is_no_mixture_and_what_is_one_are_told_apart(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"holds a mixture, and this .*Block is none: .*mix\(model, teacher\)"):
        stocnoise.load(path, Block())
    stocnoise.save(student(), tmp_path / "s")
    with pytest.raises(FileFormatError, match="holds one student, not a mixture"):
        stocnoise.load(tmp_path / "s", empty())


def test_other_models_are_refused_by_the_half(path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"student holds a student of .* that differs"):
        stocnoise.load(path, stocnoise.mix(Block(width=4), Teacher()))
    with pytest.raises(FileFormatError, match=r"teacher: a .*Teacher that differs from this .*Block"):
        stocnoise.load(path, stocnoise.mix(Block(), Block()))


def test_what_a_file_does_not_hold_is_not_saved(tmp_path: Path) -> None:
    nested = stocnoise.mix(mixture(), teacher())
    with pytest.raises(ValueError, match="student of this mixture is made of several models"):
        stocnoise.save(nested, tmp_path / "m")
    with pytest.raises(ValueError, match="not a student"):
        stocnoise.save(stocnoise.normalized(mixture(), 0.5, 0.5), tmp_path / "m")
    assert not list(tmp_path.iterdir())


CASES = {
    "the weight is 1": (in_json("mixture", "weight", value=1.0), r"mixture\.weight must be below 1, not 1"),
    "the weight is small": (in_json("mixture", "weight", value=0.4), r"mixture\.weight must be .* from 0\.5 to 1"),
    "the weight is text": (in_json("mixture", "weight", value="x"), r"mixture\.weight must be"),
    "the scale is 0": (in_json("mixture", "scale", value=0), r"mixture\.scale must be .* from 1e-06 to 1e\+06"),
    "the scale is NaN": (in_json("mixture", "scale", value=float("nan")), r"mixture\.scale must be"),
    "the temperature is huge": (in_json("mixture", "temperature", value=1e300), r"mixture\.temperature must be"),
    "a number is missing": (lambda about, _: about["mixture"].pop("scale"), r"mixture\.scale is missing"),
    "a half is missing": (lambda about, _: about.pop("teacher"), "teacher is missing"),
    "a half is text": (in_json("teacher", value="x"), "teacher must be an object"),
    "a half is a list": (in_json("student", value=[]), "student must be an object"),
    "a half has a key too many": (in_json("teacher", "x", value=1), r"teacher\.'x' is not known"),
    "half a conversion": (in_json("teacher", "layers", value=[]), r"teacher\.layer is missing"),
    "a third half": (in_json("third", value={}), "'third' is not known"),
    "a layer of a half": (in_json("student", "layers", 0, "alpha", value=7), r"student\.layers\[0\]\.alpha must be"),
    "a tensor of a half": (in_tensor("student.gelu_0.sigma", lambda t: -t), "of the student: gelu_0.sigma must be"),
    "an alias of a half": (in_json("teacher", "aliases", "x", value="y"), r"of the teacher: aliases\['x'\] must be"),
    "a tensor of neither": (lambda _, tensors: tensors.update(x=torch.zeros(1)), "'x' is of neither half"),
    "no draws": (
        in_json("student", "predictor", value={"class": "Averaged", "samples": 0}),
        r"student\.predictor\.samples must be a whole number from 1 to 65536",
    ),
    "a predictor that is none": (
        in_json("student", "predictor", value={"class": "Mixture", "samples": 1}),
        r"student\.predictor\.class must be one of Averaged, Voting",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_its_field(case: str, path: Path) -> None:
    change, words = CASES[case]
    with pytest.raises(FileFormatError, match=words):
        stocnoise.load(rewritten(path, change), empty())


def test_a_file_of_version_4_answers_as_it_did() -> None:
    files = Path(__file__).parent / "files"
    loaded = stocnoise.load(files / "block-v4.safetensors", empty())
    assert loaded.blend == Blend(0.6, 8.0, 0.5)
    expected = load_file(files / "block-v4.outputs.safetensors")["quiet"]
    with stocnoise.deterministic(loaded), torch.no_grad():
        torch.testing.assert_close(loaded(images()), expected, rtol=1e-4, atol=1e-5)
