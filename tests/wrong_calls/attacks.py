"""Wrong calls: attacks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, Square
from stocnoise.attacks import BallAttack, MinimumNormAttack
from tests.public_names import public_names
from tests.wrong_calls.table import (
    Calls,
    Row,
    choice,
    each,
    function,
    inherited,
    model,
    number,
    output,
    share,
    task,
    tensor,
    whole,
    wrong,
)

_NAMES = ["inf", "l2"]
_META = torch.ones(3, 6, 6, device="meta")

BOUNDS = [
    *each("bounds", [3, "ab", [0.0], (0.0, 0.5, 1.0), (True,)], ValueError, "pair (low, high)"),
    *each("bounds", [("a", "b"), (nn.ReLU, 1.0)], ValueError, "must be numbers, tensors or None"),
    *each("bounds", [(1.0, 0.0), (0.5, 0.5), (math.nan, 1.0)], ValueError, "low < high"),
    wrong("bounds", (_META, None), ValueError, "'meta'"),
]
MASK = [
    *tensor("mask"),
    wrong("mask", torch.tensor([0.5, 1.0]), ValueError, "0 (stays as it is) and 1"),
    wrong("mask", torch.tensor([math.nan]), ValueError, "0 (stays as it is) and 1"),
    wrong("mask", _META, ValueError, "'meta'"),
]
EPS = [
    *each("eps", ["0.1", None, True, [0.1], np.zeros(2)], ValueError, "must be a number, or a tensor"),
    *each("eps", [-0.1, math.nan, math.inf, torch.tensor(-1.0)], ValueError, "must be a finite number of at least 0"),
    wrong("eps", 8.0, ValueError, "8/255", "whole range"),
    wrong("eps", torch.full((3, 6, 6), 0.1), ValueError, "with norm='l2' eps must be a number", norm="l2"),
    wrong("eps", _META, ValueError, "'meta'"),
]

_EVERY = [
    *whole("eot"),
    *choice("batch_norm", "eval", "train"),
    *task(),
    *output(),
    *BOUNDS,
    *MASK,
]
_BALL = [*_EVERY, *EPS, *choice("norm", *_NAMES)]


class _OfOnesOwn(MinimumNormAttack):
    """What a user adds: it has the settings and the checks of the classes that it is made of."""

    def run(self, target: object, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        return x


class _InABall(BallAttack):
    def run(self, target: object, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        return x


def _attack(name: str, rows: list[Row]) -> Calls:
    cls = public_names()[name]
    if not cls.can_be_targeted:
        rows = [*rows, wrong("targeted", True, ValueError, "no targeted form", "PGD, APGD or CW")]
    right = {"source": nn.Identity()} if name == "Transfer" else {}
    made = {"attacks.MinimumNormAttack": _OfOnesOwn, "attacks.BallAttack": _InABall, "Attack": _OfOnesOwn}.get(name)
    return Calls(name, lambda w: right, rows, on=None if made is None else lambda w: made)


_GRADIENT = [*whole("steps"), *whole("restarts"), *function("loss")]
_PGD = [
    *_BALL,
    *_GRADIENT,
    *number("step_size", above_zero=True),
    *number("momentum"),
    *number("start", above_zero=True),
    wrong("start", 2.0, ValueError, "random_start=True", random_start=False),
    wrong("restarts", 2, ValueError, "random_start=True", random_start=False),
]

_DECISION = [
    *whole("steps"),
    *choice("noise", "frozen", "raw"),
    *whole("budget", noise="raw"),
    wrong("budget", 100, ValueError, "noise='raw'"),
]

CALLS = [
    _attack("Attack", _EVERY),
    _attack("attacks.MinimumNormAttack", inherited(_EVERY)),
    _attack("attacks.BallAttack", _BALL),
    _attack("PGD", _PGD),
    _attack("BIM", inherited(_PGD)),
    _attack("MIM", inherited(_PGD)),
    _attack("APGD", [*inherited(_BALL), *_GRADIENT, *share("rho", inner=True)]),
    _attack("RandomNoise", inherited(_BALL)),
    _attack("AutoAttack", [*inherited(_BALL), *choice("version", "rand", "standard", "plus")]),
    _attack(
        "CW",
        [
            *inherited(_EVERY),
            *whole("steps"),
            *whole("search_steps"),
            *number("learning_rate", above_zero=True),
            *number("initial_const", above_zero=True),
            *number("confidence"),
        ],
    ),
    _attack("Boundary", [*inherited(_EVERY), *_DECISION]),
    _attack(
        "HopSkipJump",
        [
            *inherited(_EVERY),
            *_DECISION,
            *whole("queries"),
            *choice("norm", *_NAMES),
            wrong("noise", "raw", ValueError, "noise='frozen'"),
        ],
    ),
    _attack(
        "Square",
        [
            *_BALL,
            wrong("norm", "l2", ValueError, "Square searches in L∞"),
            *whole("budget"),
            wrong("budget", 3, ValueError, "at least 4", eot=4),
            *number("share", above_zero=True),
            wrong("share", 1.1, ValueError, "at most 1"),
        ],
    ),
    _attack(
        "Transfer",
        [
            *inherited(_BALL),
            *each("source", [None, nn.ReLU, "resnet18", torch.relu], ValueError, "the model to make images on"),
            *each("attack", [None, PGD, "pgd", stocnoise.CW()], ValueError, "in a ball, such as PGD()"),
        ],
    ),
    Calls(
        "Attack.__call__",
        lambda w: {"model": w.student, "x": w.images, "y": w.labels},
        [
            *model("model"),
            *tensor("x"),
            wrong("x", None, ValueError, "must be a tensor"),
            wrong("x", torch.zeros(4, 3, 6, 6).byte(), ValueError, "divide by 255", known_as="images"),
            wrong("x", torch.full((4, 3, 6, 6), 2.0), ValueError, "[0, 1]", "normalized", known_as="images"),
            wrong("x", torch.full((4, 3, 6, 6), math.nan), ValueError, "[0, 1]", known_as="images"),
            wrong("x", torch.zeros(3, 3, 6, 6), ValueError, "3 images but 4 labels", known_as="images"),
            wrong(
                "x", torch.zeros(4, 3, 6, 6, dtype=torch.float64), ValueError, "float32", known_as="inputs", asked=True
            ),
            *tensor("y"),
            wrong("y", torch.zeros(3).long(), ValueError, "4 images but 3 labels", known_as="labels"),
            wrong("y", torch.zeros(4), ValueError, 'task="binary"', known_as="labels"),
            wrong("y", torch.zeros(4, 2).long(), ValueError, "shape (batch,)", known_as="labels"),
            wrong("y", torch.tensor([0, 1, 2, 3]), ValueError, "out of range: the model", known_as="label", asked=True),
            wrong("y", torch.tensor([0, 1, 2, -1]), ValueError, "labels start at 0", known_as="label"),
            *each("others", [3, {"mask": None}, nn.ReLU], TypeError, "stocnoise.batches.Others"),
            *each("generator", [3, "cpu", torch.Generator], TypeError, "must be a torch.Generator"),
        ],
        on=lambda w: w.attack,
    ),
    Calls(
        "Attack.asking",
        lambda w: {"queries": 8, "answers": 2},
        [*whole("queries", least=2, known_as="budget"), *whole("answers", known_as="eot")],
        on=lambda w: Square(),
    ),
    *(Calls(f"PGD.{name}", lambda w: {"eps": 0.1}, EPS, on=lambda w: PGD()) for name in ("single_step", "fgsm_rs")),
    Calls(
        "attacks.BallAttack.ball",
        lambda w: {"x": w.images},
        [wrong("x", torch.zeros(4, 1, 5, 5), ValueError, "mask", "(3, 6, 6)", "(1, 5, 5)", known_as="inputs")],
        on=lambda w: PGD(mask=torch.ones(3, 6, 6)),
    ),
    Calls(
        "attacks.overshoot",
        lambda w: {"x": w.images, "found": w.images, "factor": 1.5},
        [
            *tensor("x"),
            *tensor("found"),
            wrong("found", torch.zeros(4, 3, 5, 5), ValueError, "x's shape"),
            *number("factor"),
            *each("eps", ["a", True, -1.0, math.nan, [1.0]], ValueError, "must be a finite number"),
            *choice("norm", *_NAMES),
            *BOUNDS,
        ],
    ),
]
