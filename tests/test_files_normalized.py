"""`normalized` around a student and inside it is one thing to save, load and revert; its figures are in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import stocnoise
from tests.file_models import EXAMPLE, Block, images

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def outside(model: nn.Module, mean: list[float] = MEAN) -> nn.Module:
    return stocnoise.normalized(stocnoise.convert(model, EXAMPLE, gamma=0.1), mean, STD)


def inside(model: nn.Module, mean: list[float] = MEAN) -> nn.Module:
    return stocnoise.convert(stocnoise.normalized(model, mean, STD), EXAMPLE, gamma=0.1)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(stocnoise.normalized(torch.compile(stocnoise.convert(model, EXAMPLE)), MEAN, STD))


def answer(student: nn.Module) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return student.eval()(images())


@pytest.mark.parametrize("made", [outside, inside])
def test_it_comes_back(made, tmp_path: Path) -> None:
    student = made(Block())
    student(images())
    stocnoise.save(student, tmp_path / "s")
    loaded = stocnoise.load(tmp_path / "s", stocnoise.normalized(Block(), MEAN, STD))
    assert torch.equal(answer(loaded), answer(student))


def test_both_orders_and_the_compiled_one_write_one_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Block()
    for number, made in enumerate((outside, inside, compiled)):
        student = made(model)
        stocnoise.set_gamma(student, 0.1)
        stocnoise.save(student, tmp_path / str(number))
    found = set()
    for number in range(3):
        with safe_open(str(tmp_path / str(number)), framework="pt") as file:
            found.add((file.metadata()["stocnoise"], file.metadata()["sha256"], file.metadata()["version"]))
    assert len(found) == 1 and found.pop()[2] == "2"


@pytest.mark.parametrize("made", [outside, inside])
def test_revert_keeps_it(made) -> None:
    student = made(Block())
    teacher = stocnoise.revert(student)
    assert not list(stocnoise.stochastic_layers(teacher))
    with stocnoise.deterministic(student):
        assert torch.equal(answer(student), answer(teacher))
    assert list(stocnoise.stochastic_layers(student)), "the student stays as it is"
    assert stocnoise.revert(student, inplace=True) is student and not list(stocnoise.stochastic_layers(student))


def test_an_activation_alone_goes_the_same_way(tmp_path: Path) -> None:
    student = stocnoise.normalized(stocnoise.convert(nn.ReLU(), torch.zeros(2, 3, 4, 4)), MEAN, STD)
    student(torch.randn(2, 3, 4, 4))
    stocnoise.save(student, tmp_path / "s")
    loaded = stocnoise.load(tmp_path / "s", stocnoise.normalized(nn.ReLU(), MEAN, STD))
    assert torch.equal(loaded.model.sigma, student.model.sigma)
    assert type(stocnoise.revert(student).model) is nn.ReLU


def test_the_summary_sees_the_sites_inside() -> None:
    rows = stocnoise.summary(outside(Block())).rows
    assert [(row.layer, row.site) for row in rows] == [
        (row.layer, row.site) for row in stocnoise.summary(inside(Block())).rows
    ]
    assert rows[-1].site == "model.gelu"


@pytest.mark.parametrize("made", [outside, inside])
def test_a_model_with_other_figures_is_refused(made, tmp_path: Path) -> None:
    stocnoise.save(made(Block()), tmp_path / "s")
    for other in ([0.4914, 0.4822, 0.4465], [0.5]):
        model = stocnoise.normalized(Block(), other, STD[: len(other)])
        with pytest.raises(stocnoise.FileFormatError, match=r"normalized with mean \[0\.48.*this model is normalized"):
            stocnoise.load(tmp_path / "s", model)
    with pytest.raises(stocnoise.FileFormatError, match="this model is not normalized"):
        stocnoise.load(tmp_path / "s", Block())


def test_figures_in_half_precision_are_the_same_figures(tmp_path: Path) -> None:
    student = inside(Block())
    stocnoise.save(student.bfloat16(), tmp_path / "s")
    stocnoise.load(tmp_path / "s", stocnoise.normalized(Block(), MEAN, STD), EXAMPLE)


def test_a_number_for_every_value_is_kept_too(tmp_path: Path) -> None:
    stocnoise.save(stocnoise.convert(stocnoise.normalized(Block(), 0.5, 0.25), EXAMPLE), tmp_path / "s")
    stocnoise.load(tmp_path / "s", stocnoise.normalized(Block(), 0.5, 0.25))
    with pytest.raises(stocnoise.FileFormatError, match=r"mean 0\.5 .*mean 0\.25"):
        stocnoise.load(tmp_path / "s", stocnoise.normalized(Block(), 0.25, 0.25))


def test_a_teacher_in_it_is_no_student(tmp_path: Path) -> None:
    model = stocnoise.normalized(Block(), MEAN, STD)
    for call in (stocnoise.revert, lambda m: stocnoise.save(m, tmp_path / "s")):
        with pytest.raises(ValueError, match="not a student"):
            call(model)
