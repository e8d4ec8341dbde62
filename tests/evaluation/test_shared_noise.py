"""Models whose rows of one pass share their noise, as with noise on weights: every draw is then a pass of its own."""

from __future__ import annotations

import pytest
import torch
from attacks_models import digits, trained
from torch import Tensor, nn

from stocnoise import PGD, evaluate, predict
from stocnoise.attacks import Boundary
from stocnoise.attacks.target import Target
from stocnoise.evaluation import Averaged

X, Y = (t[:24] for t in digits()[2:])


class Tilted(nn.Module):
    """A network and a tilt of its logits, drawn once a pass."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.inner = trained()
        if told:
            self.one_draw_a_pass = True
        self.passes = self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.rows += len(x)
        logits = self.inner(x)
        return logits + 4 * torch.randn(logits.shape[1])


def test_draws_are_drawn_one_by_one():
    model = Tilted(True).eval()
    outputs = Target(model, X.dtype, 8).outputs(X)
    assert model.passes == 8 and len({round(o[0, 0].item(), 4) for o in outputs}) == 8
    shared = Target(Tilted(False).eval(), X.dtype, 8).outputs(X)
    assert torch.allclose(shared[0], shared[7], atol=1e-5), "stacked in one pass, all draws are one"
    assert predict(model, X, 8).spread.max() > 0.1
    assert not torch.equal(Averaged(model, 4).eval()(X), Averaged(model, 4).eval()(X))
    model.passes = model.rows = 0
    pytest.importorskip("foolbox")
    Boundary(budget=12, eot=4, noise="raw")(model, X[:4], Y[:4])
    assert model.rows == 4 * 12 and model.passes >= 12, "an answer is a pass of its own"


def test_evaluate_finds_it_out_by_itself():
    asked = {"data": [(X, Y)], "attacks": PGD(steps=3, eot=4), "eps": 0.1, "draws": 16, "progress": False}
    told, found = (evaluate(Tilted(said).eval(), checks=False, **asked) for said in (True, False))
    assert told.clean.spread > 0, "draws that are one would agree"
    assert told.to_dict()["clean"] == found.to_dict()["clean"]
    assert told["pgd", 0.1].asr == found["pgd", 0.1].asr


def test_noise_of_each_row_is_still_stacked():
    class Rows(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return x.flatten(1)[:, :3] + torch.randn(len(x), 3)

    model = Rows()
    report = evaluate(model, [(X, Y % 3)], "random", 0.1, draws=16, progress=False, checks=False)
    assert model.passes < 16 and report.settings["stochastic"]
