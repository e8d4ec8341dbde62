"""Wrong calls: objectives, and the step that they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import stocnoise
from stocnoise import APGD, CW, MART, PGD, Guided, Step, Trades
from tests.wrong_calls.table import Calls, Of, choice, each, function, model, number, task, tensor, whole, wrong
from tests.wrong_calls.world import World

_BARE = stocnoise.Task(loss=lambda output, y: output.sum(1), wrong=lambda output, y: output.argmax(1) != y)

CALLS = [
    Calls("Trades", lambda w: {}, number("beta")),
    Calls(
        "Trades.__call__",
        lambda w: {"step": w.step},
        [
            wrong("step", Of(lambda w: _step(w, APGD())), ValueError, "PGD(random_start=True)", known_as="trades"),
            wrong("step", Of(lambda w: _step(w, CW())), ValueError, "PGD(random_start=True)", known_as="trades"),
        ],
        on=lambda w: Trades(),
    ),
    Calls("MART", lambda w: {}, number("beta")),
    Calls(
        "MART.__call__",
        lambda w: {"step": w.step},
        [
            wrong(
                "step",
                Of(lambda w: _step(w, y=torch.ones(4, 3), task="multilabel")),
                ValueError,
                "one class a row",
                known_as="mart",
            ),
            wrong("step", Of(lambda w: _step(w, task=_BARE)), ValueError, "a task with classes", known_as="mart"),
        ],
        on=lambda w: MART(),
    ),
    Calls("Averaged", lambda w: {}, whole("samples")),
    Calls(
        "Guided",
        lambda w: {"teacher": w.model},
        [
            *model("teacher"),
            *number("weight"),
            *choice("on", "logits", "probabilities", "features"),
            *each("objective", ["pgd", 3, Trades], ValueError, "must be"),
            *number("temperature", above_zero=True, on="probabilities"),
            wrong("temperature", 2.0, ValueError, "on='probabilities'"),
            *each("layer", [3, nn.ReLU, [nn.ReLU()]], ValueError, "a layer's name", on="features"),
            wrong("layer", "5", ValueError, "on='features'"),
        ],
    ),
    Calls(
        "Guided.__call__",
        lambda w: {"step": w.step},
        [wrong("step", Of(lambda w: _step(w, CW())), ValueError, "PGD(random_start=True)", known_as="Guided")],
        on=lambda w: Guided(w.model, objective=None),
    ),
    Calls(
        "Learn2Perturb",
        lambda w: {},
        [*number("weight"), *whole("noise_after", 0), *whole("adversarial_after", 0), *number("floor")],
    ),
    Calls(
        "Step",
        lambda w: {"model": w.student, "x": w.images, "y": w.labels, "attack": w.attack},
        [
            *model("model"),
            *tensor("x"),
            *tensor("y"),
            *function("attack"),
            *choice("attack_target", "label", "prediction"),
            *function("criterion"),
            *whole("epoch", 0),
            *task(),
            *each("others", [3, {"mask": None}], TypeError, "stocnoise.batches.Others"),
            *each("autocast", [3, "bf16", None], TypeError, "must be a function"),
        ],
    ),
    Calls(
        "Step.adversarial",
        lambda w: {},
        [
            *function("attack"),
            wrong("attack", PGD(targeted=True), ValueError, "give a target"),
            *tensor("target", known_as="y"),
            wrong("target", torch.zeros(3).long(), ValueError, "4 images but 3 labels", known_as="labels"),
            *model("model"),
        ],
        on=lambda w: w.step,
    ),
    Calls("Step.watching", lambda w: {"layer": w.student[4]}, model("layer"), on=lambda w: w.step),
    Calls(
        "Step.logits",
        lambda w: {"images": (w.images,)},
        [
            wrong("images", (), ValueError, "are missing"),
            *each("images", [(3,), (None,), ("a",)], TypeError, "one batch of images or more"),
        ],
        on=lambda w: w.step,
    ),
    Calls("Step.loss", lambda w: {"logits": torch.ones(4, 3)}, tensor("logits"), on=lambda w: w.step),
]


def _step(w: World, attack: stocnoise.Attack | None = None, **others: Any) -> Step:
    return Step(**{"model": w.student, "x": w.images, "y": w.labels, "attack": attack or w.attack} | others)
