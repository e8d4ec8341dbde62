"""examples/defences: each file does what its paper says, anyone's file joins, and the page shows what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import stocnoise
from examples.defences import __main__ as command
from examples.defences import board, defence
from examples.defences.models import noise_layers, pni, random_normalization, resize_and_pad
from examples.paper import scale
from examples.paper.networks import network
from stocnoise.predictors import one_draw_a_pass

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = Path(__file__).parent / "small.toml"
SHARED = {"pni", "random_normalization"}


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return stocnoise.normalized(network("resnet8", 8, 1, 10), (0.3,), (0.4,)).eval()


@pytest.mark.parametrize("name", defence.names())
def test_each_is_built_trained_and_attacked_as_its_file_says(name):
    given = defence.load(name)
    model = given.build(teacher(), X[:2]).eval()
    if any(stocnoise.stochastic_layers(model)):
        stocnoise.calibrate(model, [X])
        if name == "learn2perturb":
            stocnoise.set_gamma(model, 1.0)
    x = X.clone().requires_grad_()
    first, second = model(x), model(x)
    assert first.shape == (6, 10)
    assert torch.equal(first, second) == (name == "at"), "noise stays on in eval mode"
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all(), "an attacker's gradient goes through"
    assert one_draw_a_pass(model) == (name in SHARED)
    found = given.attack(model, 0.1)(model, X, torch.zeros(6, dtype=torch.long))
    assert 0 < (found - X).abs().max() <= 0.1 + 1e-6
    assert set(given.training(scale.load("digits"))) <= {"objective", "attack_target", "gamma", "max_grad_norm"}


def test_the_nine_of_the_leaderboard_are_there():
    assert len(defence.names()) == 9 and len({defence.load(name).title for name in defence.names()}) == 9


def test_weights_get_noise_of_a_share_of_their_own_deviation_once_a_pass():
    model = pni.build(teacher(), X[:2])
    alphas = [p for name, p in model.named_parameters() if name.endswith("alpha")]
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(alphas) == len(layers) == 10 and all(alpha == 0.25 for alpha in alphas)
    layer = layers[3]
    original = layer.parametrizations["weight"].original
    draws = torch.stack([layer.weight - original for _ in range(200)])
    assert draws.std().item() == pytest.approx(0.25 * original.std().item(), rel=0.05)
    same = model.eval()(X[:1].repeat(4, 1, 1, 1))
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-5)
    loss = model(X).square().mean()
    assert all(g.abs() > 0 for g in torch.autograd.grad(loss, alphas)), "α is trained"


def test_noise_layers_stand_before_every_convolution():
    model = noise_layers.build(teacher(), X[:2])
    sigmas = [m.sigma for m in model.modules() if isinstance(m, noise_layers.Noise)]
    assert sigmas == [0.2] + [0.1] * 8


def test_an_image_is_enlarged_whole_and_put_somewhere_on_the_canvas():
    torch.manual_seed(0)
    ones = resize_and_pad.ResizeAndPad()(torch.ones(300, 2, 8, 8))
    assert ones.shape == (300, 2, 10, 10)
    sides = ones[:, 0].amax(2).sum(1)
    assert set(sides.tolist()) == {8.0, 9.0, 10.0} and torch.equal(ones[:, 0].sum((1, 2)), sides**2)
    places = {(each.amax(1).argmax().item(), each.amax(0).argmax().item()) for each in ones[:, 0]}
    assert places == {(i, j) for i in range(3) for j in range(3)}
    image = torch.rand(1, 1, 8, 8)
    for _ in range(40):
        moved = resize_and_pad.ResizeAndPad()(image)
        rows, columns = (moved[0, 0].amax(d).nonzero().flatten() for d in (1, 0))
        if len(rows) == 8:
            assert torch.equal(moved[0, 0][rows][:, columns], image[0, 0])
            return
    raise AssertionError("never as large as it was")


def test_one_normalisation_of_several_is_drawn_for_a_pass():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    layer = random_normalization.RandomNorm(norm).eval()
    x = torch.randn(5, 4, 6, 6)
    choices = [choice(x) for choice in layer.choices]
    drawn = [layer(x) for _ in range(60)]
    hits = {i for y in drawn for i, choice in enumerate(choices) if torch.equal(y, choice)}
    assert hits == set(range(len(choices))) and len(choices) == 4 and layer.choices[0] is norm


def test_anyones_model_joins_by_one_file(tmp_path):
    path = tmp_path / "mine.py"
    text = (defence.MODELS / "at.py").read_text().replace('TITLE = "AT"', 'TITLE = "mine"')
    path.write_text(text)
    assert defence.load(str(path)).title == "mine" and defence.load(str(path)).name == "mine"
    path.write_text(text.replace("def attack(", "def other("))
    with pytest.raises(ValueError, match="must have attack, a function"):
        defence.load(str(path))
    path.write_text(text.replace('TITLE = "mine"', "TITLE = 3"))
    with pytest.raises(ValueError, match="must have TITLE, a string"):
        defence.load(str(path))
    with pytest.raises(ValueError, match=r"no defence 'nothing': choose from anis2, at"):
        defence.load("nothing")


@pytest.mark.slow
def test_a_run_goes_on_and_leaves_a_line_a_defence_and_a_table(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- leaderboard small -->\nold\n<!-- end of small -->\nafter\n")
    out = ["--work", str(tmp_path), "--out", str(tmp_path / "r.jsonl"), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["defences", str(SMALL), "--images", "12", *out, "--defences", "at", "pni"])
    command.main()
    lines = board.read(tmp_path / "r.jsonl")
    assert [line["defence"] for line in lines] == ["at", "pni"]
    assert lines[0]["draws"] == 1 and lines[1]["draws"] == 32
    for line in lines:
        assert line["strongest"]["robust"][0] <= line["clean"][0] + 1e-6 and line["images"] == 12
    weights = tmp_path / "small" / "seed0" / "defence-pni" / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    before = page.read_text()
    assert "| PNI (weights) |" in before and "old" not in before and before.endswith("after\n")
    command.main()
    assert weights.stat().st_mtime_ns == stamp and page.read_text() == before
    assert [json.dumps(line) for line in board.read(tmp_path / "r.jsonl")] == [json.dumps(line) for line in lines]
    other = tmp_path / "small.toml"
    other.write_text(SMALL.read_text().replace("batch_size = 64", "batch_size = 50"))
    monkeypatch.setattr(sys, "argv", ["defences", str(other), *out, "--defences", "at"])
    with pytest.raises(SystemExit):
        command.main()
    assert "begun with other training.batch_size" in capsys.readouterr().err


def test_the_page_shows_what_was_measured():
    page = board.PAGE.read_text(encoding="utf-8")
    for path in sorted(board.RESULTS.glob("*.jsonl")):
        assert board.replaced(page, path.stem, board.read(path)) == page, f"write {path.name} into the page: --page"
    with pytest.raises(ValueError, match="no place for nowhere"):
        board.replaced(page, "nowhere", [])
