"""Noise on the input: exact normals in pixels, switched, saved and taken away with the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import stocnoise
from stocnoise.attacks.frozen import frozen
from stocnoise.input_noise import InputNoise
from tests.file_models import EXAMPLE, Block, images

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def noisy(model: nn.Module | None = None, sigma: float = 0.25) -> nn.Module:
    return stocnoise.convert(model or Block(), EXAMPLE, gamma=0.1, input_noise=sigma)


def answer(model: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.eval()(images() if x is None else x)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_normal_of_the_asked_deviation_in_both_modes(training: bool) -> None:
    torch.manual_seed(0)
    model = stocnoise.with_input_noise(nn.Identity(), 0.5).train(training)
    z = ((model(torch.full((1000, 2000), 0.3)) - 0.3) / 0.5).double().flatten()
    count = len(z)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / count)
        assert abs((z**power).mean().item() - moment) < 6 * spread + 1e-6
    beyond = (z.abs() > 4).double().mean().item()  # where a table of normals would be thin
    expected = math.erfc(4 / math.sqrt(2))
    assert abs(beyond - expected) < 6 * math.sqrt(expected / count)


@pytest.mark.parametrize("put", ["inside", "around"])
def test_it_is_in_pixels_wherever_normalized_stands(put: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 3, 2, 2)
    if put == "inside":
        model = stocnoise.with_input_noise(stocnoise.normalized(nn.Identity(), MEAN, STD), 0.1)
    else:
        model = stocnoise.normalized(stocnoise.with_input_noise(nn.Identity(), 0.1), MEAN, STD)
    quiet = stocnoise.normalized(nn.Identity(), MEAN, STD)(x)
    spread = (model(x) - quiet).std(dim=(0, 2, 3)) * torch.tensor(STD)
    torch.testing.assert_close(spread, torch.full((3,), 0.1), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_sum_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = stocnoise.with_input_noise(nn.Identity(), 1e-3)
    torch.manual_seed(0)
    noise = 1e-3 * torch.randn(8, 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    torch.manual_seed(0)
    given = torch.full((8, 3), 0.125, dtype=dtype)
    assert torch.equal(model(given), (given.to(noise) + noise).to(dtype))


def test_the_controls_switch_it() -> None:
    for model in (noisy(), stocnoise.with_input_noise(Block(), 0.25)):
        model.train()(images())
        assert not torch.equal(answer(model), answer(model))
        with stocnoise.deterministic(model):
            assert torch.equal(answer(model), answer(model.model))
        with stocnoise.fixed_noise(model, 3):
            x = images()
            whole, again = answer(model, x), answer(model, x)
            torch.testing.assert_close(answer(model, x[2:3]), whole[2:3])
        with stocnoise.fixed_noise(model, 4):
            other = answer(model)
        assert torch.equal(whole, again) and not torch.equal(whole, other)
        assert not torch.equal(answer(model), answer(model))


def test_the_layers_inside_draw_what_they_drew_without_it() -> None:
    student = stocnoise.convert(Block(), EXAMPLE, gamma=0.1)
    student(images())
    with stocnoise.fixed_noise(student, 3):
        alone = answer(student)
    model = stocnoise.with_input_noise(student, 0.25)
    with stocnoise.fixed_noise(model, 3), torch.no_grad():
        assert torch.equal(student.eval()(images()), alone)


def test_gamma_and_sigma_of_the_layers_are_apart() -> None:
    model = noisy()
    model(images())
    stocnoise.set_gamma(model, 0.3)
    assert model.sigma == 0.25
    assert all(abs(layer.gamma.item() - 0.3) < 1e-6 for _, layer in stocnoise.stochastic_layers(model))
    with stocnoise.freeze_sigma(model):
        assert not torch.equal(answer(model), answer(model))
    bare = stocnoise.with_input_noise(Block(), 0.25)
    for call in (lambda: stocnoise.set_gamma(bare, 0.1), lambda: stocnoise.freeze_sigma(bare)):
        with pytest.raises(ValueError, match="no stochastic layer"):
            call()


def test_one_draw_of_it_can_be_attacked() -> None:
    model = stocnoise.with_input_noise(Block().eval(), 0.25)
    with frozen(model, 1, images()) as drawn:
        x = images()
        torch.testing.assert_close(answer(drawn, x[1:2]), answer(drawn, x)[1:2])


@pytest.mark.parametrize(
    "around",
    [
        lambda model: noisy(model),
        lambda model: noisy(stocnoise.normalized(model, MEAN, STD)),
        lambda model: stocnoise.with_input_noise(
            stocnoise.normalized(stocnoise.convert(model, EXAMPLE), MEAN, STD), 0.25
        ),
        lambda model: stocnoise.normalized(noisy(model), MEAN, STD),
        lambda model: torch.compile(noisy(model), backend="eager"),
    ],
    ids=["student", "inside", "around", "normalized around all", "compiled"],
)
def test_save_load_and_revert(around, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = Block()
    student = around(teacher)
    with torch.no_grad():
        student.train()(images())
    stocnoise.save(student, tmp_path / "s")
    normal = isinstance(student, stocnoise.attacks.Normalized) or isinstance(
        getattr(student, "model", None), stocnoise.attacks.Normalized
    )
    base = stocnoise.normalized(Block(), MEAN, STD) if normal else Block()
    loaded = stocnoise.load(tmp_path / "s", base)
    assert isinstance(loaded, InputNoise) and loaded.sigma == 0.25
    for control in (stocnoise.deterministic, lambda model: stocnoise.fixed_noise(model, 5)):
        with control(student), control(loaded):
            assert torch.equal(answer(student), answer(loaded))
    reverted = stocnoise.revert(student)
    assert not any(isinstance(module, InputNoise) for module in reverted.modules())
    with stocnoise.deterministic(student):
        assert torch.equal(answer(reverted), answer(student))
    assert "noise on the input, σ = 0.25" in str(stocnoise.summary(student))


def test_only_files_with_it_are_of_the_newest_version(tmp_path: Path) -> None:
    for name, model, version in (
        ("1", stocnoise.convert(Block(), EXAMPLE), "1"),
        ("2", stocnoise.convert(stocnoise.normalized(Block(), MEAN, STD), EXAMPLE), "2"),
        ("3", noisy(), "3"),
    ):
        stocnoise.save(model, tmp_path / name)
        with safe_open(str(tmp_path / name), framework="pt") as file:
            assert file.metadata()["version"] == version


@pytest.mark.parametrize("sigma", [0, 0.0, -0.1, math.inf, math.nan, "0.1", True])
def test_no_deviation_is_refused_before_anything_is_done(sigma) -> None:
    model = Block()
    for call in (
        lambda: stocnoise.with_input_noise(model, sigma),
        lambda: stocnoise.convert(model, EXAMPLE, input_noise=sigma, inplace=True),
    ):
        with pytest.raises(ValueError, match="input_noise must be sigma > 0"):
            call()
    assert not list(stocnoise.stochastic_layers(model))


def test_noise_on_noise_is_refused() -> None:
    model = noisy()
    with pytest.raises(ValueError, match=r"already, sigma=0\.25"):
        stocnoise.with_input_noise(model, 0.1)
    with pytest.raises(stocnoise.ConversionError, match="convert what is inside"):
        stocnoise.convert(stocnoise.with_input_noise(Block(), 0.25), EXAMPLE)
    with pytest.raises(ValueError, match="compile what normalized gives"):
        stocnoise.normalized(torch.compile(model, backend="eager"), MEAN, STD)
    with pytest.raises(ValueError, match=r"floating-point inputs, not torch\.int64"):
        stocnoise.with_input_noise(nn.Identity(), 0.1)(torch.zeros(2, 3, dtype=torch.int64))
