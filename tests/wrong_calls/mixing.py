"""Wrong calls: mixtures of two models."""

from __future__ import annotations

import torch

import stocnoise
from stocnoise import Blend, Mixture
from tests.wrong_calls.measuring import data, judged
from tests.wrong_calls.noise import READERS
from tests.wrong_calls.table import (
    Calls,
    Of,
    any_whole,
    each,
    model,
    number,
    several,
    share,
    whole,
    wrong,
)
from tests.wrong_calls.world import World

_NUMBERS = [
    *number("weight", above_zero=True),
    *each("weight", [0.4, 1.0, 2], ValueError, "[0.5, 1)"),
    *number("scale", above_zero=True),
    *each("scale", [1e-7, 1e7], ValueError, "must lie in"),
    *number("temperature", above_zero=True),
    *each("temperature", [1e-7, 1e7], ValueError, "must lie in"),
]
_PARTS = [
    *model("student"),
    *model("teacher"),
    *each("task", ["regression", None, 3], ValueError, "must be one of", "multiclass"),
    *each("task", ["binary", "multilabel"], ValueError, "probabilities of classes"),
]


def _right(w: World) -> dict[str, object]:
    return {"student": w.student, "teacher": w.teacher}


CALLS = [
    Calls("mix", _right, [*_PARTS, *_NUMBERS]),
    Calls("Blend", lambda w: {}, _NUMBERS),
    Calls(
        "Mixture",
        lambda w: _right(w) | {"blend": Blend()},
        [*_PARTS, *each("blend", [3, None, 0.75, Blend, {"weight": 0.75}], TypeError, "must be a stocnoise.Blend")],
    ),
    Calls(
        "Mixture.set_extra_state",
        lambda w: {"state": w.mixture.get_extra_state()},
        [
            *each("state", [3, None, [0.75, 1.0, 1.0], torch.ones(2), torch.ones(3, 1)], ValueError, "a, k and T"),
            wrong("state", torch.tensor([0.3, 1.0, 1.0]), ValueError, "[0.5, 1)", known_as="weight"),
        ],
        on=lambda w: w.mixture,
    ),
    Calls(
        "MarginBound",
        lambda w: {"mixture": w.mixture},
        [
            *each("mixture", [3, None, Mixture], TypeError, "stocnoise.mix"),
            wrong("mixture", Of(lambda w: w.student), TypeError, "stocnoise.mix"),
        ],
    ),
    Calls(
        "fit_mixture",
        lambda w: {
            "mixture": w.mixture,
            "data": w.loader,
            "attack": w.attack,
            "weights": [0.6],
            "scales": [1.0],
            "temperatures": [1.0],
            "draws": 2,
            "progress": False,
        },
        [
            *model("mixture"),
            wrong("mixture", Of(lambda w: w.student), ValueError, "stocnoise.mix"),
            *data("data"),
            *judged("data"),
            *each("attack", [3, "pgd", stocnoise.PGD, stocnoise.CW()], ValueError, "must be one in a ball"),
            *share("max_loss"),
            *several("weights"),
            *each("weights", [[0.4], ["a"], [None]], ValueError, known_as="weight"),
            wrong("weights", [], ValueError, "a value each"),
            *several("scales"),
            *each("scales", [[0], ["a"], [None]], ValueError, known_as="scale"),
            wrong("scales", [], ValueError, "a value each"),
            *several("temperatures"),
            *each("temperatures", [[0], ["a"], [None]], ValueError, known_as="temperature"),
            wrong("temperatures", [], ValueError, "a value each"),
            *whole("draws"),
            *READERS,
            *whole("max_images"),
            *any_whole("seed"),
        ],
    ),
]
