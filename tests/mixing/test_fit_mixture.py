"""`fit_mixture`: the most clean accuracy at a permitted loss of robust accuracy, by attacks on the mixture itself."""

from __future__ import annotations

import json

import pytest
import torch
from attacks_models import digits
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, fit_mixture
from stocnoise.attacks.losses import margin
from stocnoise.evaluation import Averaged, Budget, Strongest
from stocnoise.mixture import Blend

EPS = 0.05
ATTACK = APGD(eps=EPS, steps=8, loss=margin)


class Along(nn.Module):
    """Two classes, told apart by one coordinate: logits ∓ slope·(x_i − ½)."""

    def __init__(self, coordinate: int, slope: float) -> None:
        super().__init__()
        self.coordinate, self.slope = coordinate, nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * (x[:, self.coordinate] - 0.5)
        return torch.stack([-z, z], 1)


class Trembling(Along):
    """With noise on its logits' size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.1 * torch.randn(len(x), 1))


def points(n: int = 200) -> tuple[Tensor, Tensor]:
    """Coordinate 0 tells the class robustly for four points in five, and is undecided for the fifth, half of the time
    wrong; coordinate 1 always tells it, within ε.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (n,), generator=generator)
    sign = 2.0 * y - 1
    sure = torch.arange(n) % 5 > 0
    wrong = torch.where(torch.arange(n) % 2 == 0, -1.0, 1.0)
    robust = torch.where(sure, 0.2 + 0.2 * torch.rand(n, generator=generator), 0.02 * wrong)
    return torch.stack([0.5 + sign * robust, 0.5 + 0.02 * sign], 1), y


X, Y = points()
BATCHES = [(X[:120], Y[:120]), (X[120:], Y[120:])]
GRID = {"weights": (0.55, 0.75, 0.95), "scales": (1.0, 4.0), "temperatures": (0.01, 1.0)}


def halves(student: type[Along] = Along) -> tuple[nn.Module, nn.Module]:
    return student(0, 10.0).eval(), Along(1, 10.0).eval()


@pytest.fixture(scope="module")
def fitted():
    mixture = stocnoise.mix(*halves()).eval()
    return mixture, fit_mixture(mixture, BATCHES, ATTACK, max_loss=0.0, progress=False, **GRID)


def test_it_takes_the_clean_accuracy_that_costs_nothing(fitted):
    mixture, fit = fitted
    assert fit.student.clean.value == pytest.approx(0.9) and fit.student.robust.value == pytest.approx(0.8)
    assert fit.teacher.clean.value == 1.0 and fit.teacher.robust.value == 0.0
    assert fit.chosen is not None and fit.chosen.attacked and mixture.blend == fit.chosen.blend
    assert fit.chosen.clean.value == 1.0 and fit.chosen.robust.value == pytest.approx(0.8)
    attack = Strongest((Budget(8, 2),))
    found = stocnoise.evaluate(mixture, BATCHES, attack, EPS, bounds=None, checks=False, progress=False)
    assert found["strongest", EPS].robust_accuracy.value == pytest.approx(0.8)


def test_what_it_tells_of_a_candidate_is_what_an_attack_on_it_finds(fitted):
    """Exhaustively: every candidate attacked by itself stands no better, where attacked, than the fit says."""
    _, fit = fitted
    assert len(fit.candidates) == 12
    for candidate in fit.candidates:
        model = stocnoise.Mixture(*halves(), candidate.blend)
        clean = (model(X).argmax(1) == Y).float().mean().item()
        assert candidate.clean.value == pytest.approx(clean)
        robust = (model(ATTACK(model, X, Y)).argmax(1) == Y).float().mean().item()
        if candidate.attacked:
            assert candidate.robust.value <= robust + 1e-6
        else:  # it could not have been chosen
            assert fit.chosen is not None
            assert candidate.robust.value < fit.student.robust.value or candidate.clean.value <= fit.chosen.clean.value


def test_the_rule_is_the_loss_that_is_permitted():
    """k = 1 leaves the student unsure, so that the teacher decides nearly all: more clean accuracy, no robustness."""
    student, teacher = Along(0, 1.0).eval(), Along(1, 200.0).eval()
    grid = {"weights": (0.55,), "scales": (1.0,), "temperatures": (1.0,)}
    mixture = stocnoise.mix(student, teacher)
    fit = fit_mixture(mixture, BATCHES, ATTACK, max_loss=0.1, progress=False, **grid)
    assert fit.chosen is None and mixture.blend == Blend() and "use the student alone" in str(fit)
    fit = fit_mixture(mixture, BATCHES, ATTACK, max_loss=0.9, progress=False, **grid)
    assert fit.chosen is not None and mixture.blend == Blend(0.55)


def test_nothing_is_taken_that_gains_nothing():
    mixture = stocnoise.mix(Along(0, 10.0), Along(0, 10.0))
    fit = fit_mixture(mixture, BATCHES, ATTACK, progress=False, **GRID)
    assert fit.chosen is None and not any(candidate.attacked for candidate in fit.candidates)


def test_it_tells_all_that_was_tried(fitted):
    _, fit = fitted
    data = json.loads(json.dumps(fit.to_dict()))
    assert len(data["candidates"]) == 12 and data["settings"]["images"] == 200
    assert data["chosen"] in data["candidates"]
    assert {"weight", "scale", "temperature", "clean", "robust", "attacked"} <= data["chosen"].keys()
    text = str(fit)
    assert "chosen" in text and "not attacked" in text and "report others" in text
    clean = [candidate["clean"] for candidate in data["candidates"]]
    assert clean == sorted(clean, reverse=True)


def test_the_same_seed_gives_the_same_and_nothing_else_moves():
    mixture = stocnoise.mix(*halves(Trembling)).train()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again = (
        fit_mixture(mixture, iter(BATCHES), ATTACK, max_loss=0.05, draws=4, progress=False, **GRID) for _ in range(2)
    )
    assert first.to_dict() == again.to_dict() and first.settings["draws"] == 4
    assert torch.equal(state, torch.get_rng_state())
    assert mixture.training and mixture.student.training and not mixture.teacher.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in mixture.parameters())


def test_what_stands_on_images_made_on_the_halves_is_attacked_itself():
    """Only who moves both coordinates flips the mixture: images made on either half leave it right."""
    sign = torch.where(torch.arange(100) % 2 == 0, 1.0, -1.0)
    y = (sign > 0).long()
    robust = torch.where(torch.arange(100) % 10 < 2, -0.01, 0.04)
    x = torch.stack([0.5 + sign * robust, 0.5 + sign * 0.06], 1)
    student, teacher = Along(0, 1.0).eval(), Along(1, 1.0).eval()
    mixture = stocnoise.mix(student, teacher)
    grid = {"weights": (0.55,), "scales": (1.0,), "temperatures": (1.0,)}
    fit = fit_mixture(mixture, [(x, y)], ATTACK, progress=False, **grid)
    assert fit.chosen is not None and fit.chosen.clean.value == 1.0
    for half in (student, teacher):
        assert (mixture(ATTACK(half, x, y)).argmax(1) == y).float().mean() > 0.7
    assert fit.chosen.robust.value == 0.0


@pytest.mark.slow
def test_an_average_in_it_and_a_compiled_mixture():
    mixture = stocnoise.mix(Averaged(halves(Trembling)[0], 2), halves()[1])
    fit = fit_mixture(torch.compile(mixture), BATCHES, ATTACK, draws=4, max_loss=0.05, progress=False, **GRID)
    assert fit.settings["draws"] == 4 and fit.student.robust.value == pytest.approx(0.8, abs=0.05)
    assert fit.chosen is not None and mixture.blend == fit.chosen.blend


def test_a_class_at_every_pixel():
    torch.manual_seed(0)
    mixture = stocnoise.mix(nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1), task="segmentation")
    x = digits()[2][:8]
    y = mixture.teacher(x).argmax(1)
    fit = fit_mixture(mixture, [(x, y)], APGD(eps=0.01, steps=3), max_loss=0.9, progress=False, **GRID)
    assert fit.teacher.clean.value == 1.0 and fit.chosen is not None
    assert fit.chosen.clean.value > fit.student.clean.value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_loss": -0.1}, r"max_loss must lie in \[0, 1\], not -0.1"),
        ({"weights": (0.3,)}, r"weight must lie in \[0.5, 1\), not 0.3"),
        ({"scales": ()}, "must hold a value each"),
        ({"temperatures": (0.0,)}, "temperature must be"),
        ({"draws": 0}, "draws must be"),
        ({"attack": "pgd"}, "attack must be one in a ball"),
        ({"max_images": 0}, "max_images must be"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(settings, words):
    mixture = stocnoise.mix(*halves())
    with pytest.raises(ValueError, match=words):
        fit_mixture(mixture, BATCHES, progress=False, **settings)
    assert mixture.blend == Blend()


def test_models_and_data_that_do_not_fit_are_refused():
    mixture = stocnoise.mix(*halves())
    with pytest.raises(ValueError, match=r"mixture must be what stocnoise.mix makes, not a Along"):
        fit_mixture(halves()[0], BATCHES)
    with pytest.raises(ValueError, match="the data gave no batch"):
        fit_mixture(mixture, [], progress=False)
    with pytest.raises(ValueError, match="label 7 is out of range"):
        fit_mixture(mixture, [(X[:2], torch.tensor([0, 7]))], progress=False)


def test_draws_that_choose_the_worst_image_do_not_score_it():
    """Of a student that answers at random, no number of images makes the robust accuracy fall below chance."""

    class Chance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), 2)

    mixture = stocnoise.mix(Chance(), Along(1, 1e-6), weight=0.9)
    fit = fit_mixture(mixture, BATCHES, APGD(eps=EPS, steps=2), draws=8, max_loss=0.9, progress=False, **GRID)
    assert fit.student.robust.value == pytest.approx(0.5, abs=0.06)
