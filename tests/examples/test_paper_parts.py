"""The parts of examples/paper whose mistakes a run would not show: settings, the question, the claims, the plane."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import stocnoise
from examples.paper import images, networks, plane, question, recipes, scale, units
from examples.paper.claims import claims
from examples.paper.images import Images
from examples.paper.measure import Averaged
from examples.paper.results import Figure, Results
from stocnoise.evaluation.cascade import Cascade
from stocnoise.evaluation.scoring import Score

SCALES = sorted(path.stem for path in scale.SCALES.glob("*.toml"))


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_is_read_and_plans_every_table_and_figure(name):
    chosen = scale.load(name)
    teachers, training, measuring = units.stages(chosen)
    assert len(teachers) == len(chosen.seeds)
    trained = {(unit.seed, unit.recipe.name) for unit in teachers + training}
    assert {(unit.seed, unit.recipe.name) for unit in measuring} <= trained
    kinds = {(unit.recipe.name, unit.measurement) for unit in measuring}
    tables = {(name, kind) for name in recipes.TITLES for kind in ("plain", "expectation", "boundary")}
    assert kinds >= tables if chosen.studies.tables else not kinds & tables
    assert kinds >= {(name, "strongest") for name in ("teacher", "at", "trades", "anis")}
    assert len({unit.path(chosen, Path()) for unit in training + measuring}) == len(training) + len(measuring)


def test_the_defences_start_and_train_alike():
    table = recipes.defences(scale.load("digits"))
    assert tuple(table) == tuple(recipes.TITLES)
    assert len({(recipe.epochs, recipe.lr, recipe.eps, recipe.from_teacher) for recipe in table.values()}) == 1


@pytest.mark.parametrize("name", SCALES)
def test_what_helps_costs_no_more_than_what_it_is_compared_with(name):
    chosen = scale.load(name)
    table, helped = recipes.defences(chosen), recipes.helped(chosen)
    for recipe in helped.values():
        plain = table["at" if recipe.layer is None else "anis"]
        # Whole epochs: half of one more or less.
        one = recipes.passes(chosen, recipe) / recipe.epochs
        assert abs(recipes.passes(chosen, recipe) - recipes.passes(chosen, plain)) <= one / 2 + 1e-9
    noisy = {recipe.means for recipe in helped.values() if recipe.layer is not None}
    assert noisy - {recipe.means for recipe in helped.values() if recipe.layer is None} <= {"averaged"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 16", "width = 16\nheight = 3", "unknown or missing: height"),
        ("width = 16", "", "unknown or missing: width"),
        ("width = 16", 'width = "wide"', "width cannot be 'wide'"),
        ("augment = false", "augment = 0", "augment cannot be 0"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, old, new, message):
    text = (scale.SCALES / "digits.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        scale.load(str(tmp_path / "mine.toml"))


def test_what_is_to_be_attacked_harder_must_be_a_recipe():
    chosen = scale.load("digits")
    studies = dataclasses.replace(chosen.studies, harder=("anis", "anis-gided"))
    with pytest.raises(ValueError, match=r"studies\.harder names no recipe of this scale: anis-gided"):
        units.stages(dataclasses.replace(chosen, studies=studies))
    with pytest.raises(ValueError, match=r"no recipe of this scale: at; those with noise are l2p, anis"):
        units.stages(dataclasses.replace(chosen, studies=dataclasses.replace(chosen.studies, harder=("at",))))
    with pytest.raises(ValueError, match=r"studies\.harder needs attacks\.harder"):
        units.stages(dataclasses.replace(chosen, studies=dataclasses.replace(chosen.studies, harder=("anis",))))


def test_an_unknown_scale_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"cifar10.*digits"):
        scale.load("imagenet")


def test_numbers_may_be_fractions():
    assert scale.load("cifar10").training.eps == 8 / 255


def test_networks_have_the_shapes_of_their_papers():
    assert sum(p.numel() for p in networks.network("resnet18", 64, 3, 10).parameters()) == 11_173_962
    student = stocnoise.convert(networks.network("resnet8", 16, 1, 10), torch.zeros(2, 1, 8, 8))
    assert len(list(stocnoise.stochastic_layers(student))) == 7
    with pytest.raises(ValueError, match="unknown network 'vgg'"):
        networks.network("vgg", 16, 1, 10)


def test_shortcuts_without_weights_are_he_and_others_option_a():
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    y = networks.Padded(16, 32, 2)(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()
    assert sum(p.numel() for p in networks.network("resnet20-a", 16, 3, 10).parameters()) == 269_722


def test_public_names_of_weights_are_understood():
    ours = networks.network("resnet20-a", 16, 3, 10).state_dict()
    theirs = {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"}
    found = networks.renamed(dict.fromkeys(theirs, torch.zeros(1)))
    assert found.keys() == {
        "conv.weight", "bn.running_var", "stages.0.0.conv1.weight", "stages.2.2.bn2.bias", "head.bias",
    }  # fmt: skip
    assert found.keys() <= ours.keys()
    assert networks.renamed(ours).keys() == ours.keys()


@pytest.mark.parametrize(("name", "classes"), [("CIFAR10", 10), ("CIFAR100", 100)])
def test_cifar_is_read_as_torchvision_keeps_it(name, classes, monkeypatch, tmp_path):
    asked = []

    def torchvisions(root, *, train, download):
        """(N, 32, 32, 3) bytes and a list, as torchvision's own; each image is its number, channel by channel."""
        asked.append((root, train, download))
        size = 150 if train else 20
        data = np.zeros((size, 32, 32, 3), np.uint8) + np.arange(size, dtype=np.uint8)[:, None, None, None]
        data[..., 2] = 255
        return SimpleNamespace(data=data, targets=[i % classes for i in range(size)])

    monkeypatch.setattr(torchvision.datasets, name, torchvisions)
    settings = dataclasses.replace(scale.load(name.lower()).data, holdout=30, augment=False)
    split = images.load(settings, tmp_path)
    assert asked == [(tmp_path, True, True), (tmp_path, False, True)]
    assert split.classes == classes and split.channels == 3
    assert [len(part) for part in (split.train, split.holdout, split.test)] == [120, 30, 20]
    x, y = split.train.everything()
    assert x.shape == (120, 3, 32, 32) and (x[:, 2] == 1).all()
    assert torch.equal((x[:, 0, 5, 7] * 255).round().long(), torch.arange(30, 150))
    assert torch.equal(y, torch.arange(30, 150) % classes)


def test_augmentation_moves_each_image_by_its_own_shift_and_nothing_else():
    pixels = torch.zeros(64, 1, 16, 16, dtype=torch.uint8)
    pixels[:, 0, 8, 8] = 255
    torch.manual_seed(0)
    x, y = Images(pixels, torch.arange(64), crop=True).__getitems__(range(64))
    assert y.tolist() == list(range(64)) and x.sum().item() == 64
    places = {tuple(image[0].nonzero()[0].tolist()) for image in x}
    assert len(places) > 15 and all(abs(row - 8) <= 2 and abs(column - 8) <= 2 for row, column in places)
    flipped, _ = Images(
        torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4).repeat(64, 1, 1, 1), y, flip=True
    ).__getitems__(range(64))
    lines = {tuple(image.flatten().mul(255).round().int().tolist()) for image in flipped}
    assert lines == {(0, 1, 2, 3), (3, 2, 1, 0)}


def test_training_test_and_held_out_images_are_disjoint_parts(tmp_path):
    data = dataclasses.replace(scale.load("digits").data, train_images=300, test_images=50, holdout=100)
    split = images.load(data, tmp_path)
    assert (len(split.train), len(split.holdout), len(split.test)) == (200, 100, 50)
    rows = [{tuple(row.flatten().tolist()) for row in part.pixels} for part in (split.train, split.holdout)]
    assert not rows[0] & rows[1]


def test_the_plane_goes_through_its_images():
    torch.manual_seed(0)
    chosen = torch.rand(3, 2, 4, 4)
    points, places = plane.grid(chosen)
    assert points.shape == (plane.SIZE**2, 2, 4, 4)
    for image, (column, row) in zip(chosen, places.tolist(), strict=True):
        at = round(row) * plane.SIZE + round(column)
        spacing = (points[1] - points[0]).norm() + (points[plane.SIZE] - points[0]).norm()
        assert (points[at] - image).norm() < spacing


def test_the_averaged_predictor_is_the_log_of_the_mean_softmax():
    table = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Draws(torch.nn.Module):
        def forward(self, x):
            return table[: len(x)]

    x = torch.zeros(2, 1, 1, 1)
    expected = table.view(3, 2, 5).softmax(2).mean(0).log()
    torch.testing.assert_close(Averaged(Draws(), 3)(x), expected)


def test_a_cascade_keeps_the_best_attack_of_each_image_and_scores_it_by_other_draws():
    def score(*rows: list[int]) -> Score:
        correct = torch.tensor(rows).bool()
        return Score(correct, correct.double().mean(1) > 0.5)

    clean = score([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1])
    # The first two draws choose, the last two score.
    cascade = Cascade(
        clean, [score([1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]), score([1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1])]
    )
    assert cascade.left.tolist() == [0, 1]
    assert cascade.worst.correct.int().tolist() == [[1, 0], [1, 1], [1, 0]]
    assert cascade.figures()["robust_accuracy"] == pytest.approx(4 / 6)
    cascade.add(cascade.left, score([1, 0, 0, 0], [0, 0, 0, 0]))  # no better, and better
    assert cascade.left.tolist() == [0]
    assert cascade.worst.correct.int().tolist() == [[1, 0], [0, 0], [1, 0]]
    assert cascade.figures()["asr"] == pytest.approx(4 / 6)


def test_a_cascade_without_noise_has_one_draw_for_both():
    sure, lost = (
        Score(torch.tensor([[True]]), torch.tensor([True])),
        Score(torch.tensor([[False]]), torch.tensor([False])),
    )
    cascade = Cascade(sure, [sure, sure])
    assert cascade.left.tolist() == [0]
    cascade.add(cascade.left, lost)
    assert cascade.left.tolist() == [] and cascade.figures()["robust_accuracy"] == 0


def test_the_front_is_the_best_mixture_with_at_least_that_clean_accuracy():
    xs, ys = torch.tensor([[0.9, 0.5, 0.7, 0.6]]).repeat(6, 1), torch.tensor([[0.1, 0.5, 0.3, 0.2]]).repeat(6, 1)
    at = torch.tensor([0.4, 0.5, 0.6, 0.8, 0.9, 0.95])
    torch.testing.assert_close(question.front(xs, ys, at), torch.tensor([0.5, 0.5, 0.4, 0.2, 0.1, 0.1]))
    for clean in (0.8, 0.9, 0.95):
        dominated = question.front(torch.tensor([[0.9, 0.9]]), torch.tensor([[0.3, 0.6]]), torch.tensor([clean]))
        assert dominated.item() == pytest.approx(0.6)


def _lines(recipe: str, clean: float, robust: float, seeds: int = 2, images: int = 400) -> list[dict[str, Any]]:
    def answers(rate: float, seed: int) -> dict[str, Any]:
        drawn = torch.rand(images, generator=torch.Generator().manual_seed(seed)) < rate
        return {"draws": 1, "right": drawn.int().tolist(), "averaged": drawn.int().tolist()}

    return [
        {
            "kind": "strongest",
            "seed": seed,
            "recipe": recipe,
            "title": recipe,
            "per_image": {"clean": answers(clean, seed), "attacked": answers(robust, seed)},
        }
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(("robust", "place"), [(0.7, "ahead of"), (0.5, "level with"), (0.3, "behind")])
def test_the_answer_follows_the_gap_at_equal_clean_accuracy(robust, place):
    chosen = scale.load("digits")
    data = _lines("at", 0.9, 0.4) + _lines("at-0.2", 0.7, 0.6) + _lines("anis", 0.8, robust)
    ats, held = question.rows(Results(data), chosen)
    row = next(row for row in held if row.predictor == "one draw")
    assert len(ats) == 2 and not row.beyond
    assert row.gap == pytest.approx(robust - 0.5, abs=0.02)
    assert place in question.verdict(row)


def test_a_lead_that_the_last_stage_of_the_attack_would_eat_is_none():
    chosen = scale.load("digits")
    stages = [{"robust_accuracy": left} for left in (0.9, 0.75, 0.7)]
    data = _lines("at", 0.8, 0.5) + [line | {"settings": {"stochastic": True}} for line in _lines("anis", 0.8, 0.6)]
    for line in data[-3:]:
        line["stages"] = stages
    data[:-3] = [line | {"settings": {"stochastic": False}, "stages": stages} for line in data[:-3]]
    results = Results(data)
    row = next(row for row in question.rows(results, chosen)[1] if row.predictor == "one draw")
    took = question.taken(results)["anis", "one draw"]
    assert took == pytest.approx(0.05)
    assert "ahead" in question.verdict(row)
    assert row.gap_interval[0] > 0
    assert question.verdict(row, row.gap_interval[0] + 0.01).startswith("level with")
    assert "still took 50.0" in question.verdict(row, 0.5)


def test_what_was_made_on_one_draw_counts_against_the_averaged_predictor_too():
    chosen = scale.load("digits")
    own = [line | {"kind": "averaged"} for line in _lines("anis", 0.8, 0.6)]
    _, held = question.rows(Results(_lines("at", 0.8, 0.5) + _lines("anis", 0.8, 0.3) + own), chosen)
    robust = {row.predictor: row.robust for row in held}
    # The same random numbers decide both: the images right at 0.3 are right at 0.6.
    assert robust["averaged"] == robust["one draw"] == pytest.approx(0.3, abs=0.05)


def test_where_a_model_was_attacked_harder_that_counts():
    chosen = scale.load("digits")
    harder = [line | {"kind": "harder"} for line in _lines("anis", 0.8, 0.3)]
    averaged = [line | {"kind": "averaged"} for line in _lines("anis", 0.8, 0.6)]
    _, held = question.rows(Results(_lines("at", 0.8, 0.5) + _lines("anis", 0.8, 0.6) + averaged + harder), chosen)
    robust = {row.predictor: row.robust for row in held}
    assert robust["one draw"] == robust["vote"] == robust["averaged"] == pytest.approx(0.3, abs=0.05)
    # Broken off after a seed, it counts for none.
    partly = Results(_lines("at", 0.8, 0.5) + _lines("anis", 0.8, 0.6) + averaged + harder[:1])
    assert all(row.robust == pytest.approx(0.6, abs=0.05) for row in question.rows(partly, chosen)[1])


def test_seeds_that_disagree_widen_the_interval():
    chosen = scale.load("digits")

    def width(rates: tuple[float, float]) -> float:
        parts = [_lines("anis", 0.8, rate)[seed] for seed, rate in enumerate(rates)]
        _, held = question.rows(Results(_lines("at", 0.8, 0.5) + parts), chosen)
        row = next(row for row in held if row.predictor == "one draw")
        assert row.gap_interval is not None
        return row.gap_interval[1] - row.gap_interval[0]

    assert width((0.3, 0.7)) > 2 * width((0.5, 0.5))


def _measured(recipe: str, asr: float, clean: float = 0.9) -> list[dict[str, Any]]:
    interval = [asr - 0.02, asr + 0.02]
    chosen = scale.load("digits")
    found = [("plain", "bim", chosen.training.eps, "inf"), ("boundary", "boundary-raw", None, "l2")]
    found.append(("strongest", "worst case", chosen.training.eps, "inf"))
    return [
        {
            "kind": kind,
            "seed": 0,
            "recipe": recipe,
            "clean": {"accuracy": clean, "interval": [clean - 0.01, clean + 0.01]},
            "attacks": [{"attack": attack, "eps": eps, "norm": norm, "asr": asr, "asr_interval": interval}],
        }
        for kind, attack, eps, norm in found
    ]


@pytest.mark.parametrize(
    ("asr", "expected"), [(0.2, "confirmed"), (0.3, "not confirmed"), (0.4, "not confirmed, the opposite")]
)
def test_a_claim_needs_its_interval_on_its_side(asr, expected):
    lines = _measured("anis", asr) + [line for name in ("at", "trades", "l2p") for line in _measured(name, 0.3)]
    found = {claim.text: claim for claim in claims(Results(lines), scale.load("digits"))}
    text = "White box, BIM: the student's ASR is below AT's, TRADES' and L2P's (one draw, as in the paper)"
    assert found[text].verdict == expected
    boundary = next(claim for name, claim in found.items() if "(raw, as in the paper)" in name)
    assert boundary.verdict == "not confirmed, the opposite" and "at 75.8/81.8" in boundary.paper
    accuracy = found["The student's clean accuracy is at most 2 points below AT's"]
    assert accuracy.verdict == "confirmed"
    untested = [claim for claim in found.values() if claim.verdict == "not tested"]
    assert len(untested) == len(found) - 4


def test_an_eps_that_is_no_decimal_is_found_again():
    line = _measured("anis", 0.2)[0]
    line["attacks"][0]["eps"] = 0.03137
    assert Results([line]).figure("anis", "plain", "bim", 8 / 255) is not None
    assert Results([line]).figure("anis", "plain", "bim", 10 / 255) is None


def test_a_figure_over_seeds_counts_images_once_and_seeds_each():
    lines = _measured("anis", 0.2) + _measured("anis", 0.4)
    for seed, line in enumerate(lines[::3]):
        line["seed"] = seed
    figure = Results(lines).figure("anis", "plain", "bim", 0.15)
    assert figure is not None and figure.value == pytest.approx(0.3)
    assert figure.error == pytest.approx(((0.04 / 3.92) ** 2 + 0.1**2) ** 0.5)
    assert figure.minus(Figure(0.1, figure.error)).error == pytest.approx(2**0.5 * figure.error)
