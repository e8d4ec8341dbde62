"""Wrong calls: conversion, the way back, and normalisation."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

import stocnoise
from stocnoise.errors import (
    AlreadyConvertedError,
    ConversionError,
    ExampleInputError,
    NothingConvertedError,
    WrappedModelError,
)
from tests.wrong_calls.table import Calls, Of, Row, each, model, number, several, share, wrong

_FILTERS = each("include", [3, [3], True, object()], TypeError, "globs, module types or a predicate")


def _inputs() -> list[Row]:
    return [
        *each("example_input", [3, "a", np.zeros((2, 3, 6, 6), np.float32), nn.ReLU, []], ExampleInputError, "check"),
        wrong("example_input", torch.zeros(2, 3, 9, 9), ExampleInputError, "did not run"),
        wrong("example_input", torch.zeros(2, 3, 6, 6, dtype=torch.int64), ExampleInputError, "did not run"),
        wrong("example_input", {"images": torch.zeros(2, 3, 6, 6)}, ExampleInputError, "did not run"),
        *several("more_inputs"),
        wrong("more_inputs", [torch.zeros(2, 1, 6, 6)], ExampleInputError, "did not run", known_as="example_input"),
        *_FILTERS,
        *(wrong("exclude", row.value, row.error, *row.words) for row in _FILTERS),
    ]


_MODELS = [
    *model("model"),
    wrong("model", Of(lambda w: w.wrapped), WrappedModelError, "DataParallel", "convert the model first"),
    wrong("model", Of(lambda w: w.student), AlreadyConvertedError, "stocnoise.revert(model)"),
    wrong("model", Of(lambda w: w.noisy), ConversionError, "noise on its input"),
]

_LAYERS = [
    nn.ReLU,
    Of(lambda w: w.layer),
    stocnoise.StocReLUEMA(4),
    "StocReLUEMA",
    None,
    torch.relu,
]


def _figures(argument: str) -> list[Row]:
    values = ["a", object(), nn.ReLU, {"r": 0.5}, torch.zeros(3, device="meta")]
    return [
        *each(argument, values, ValueError, "must be a number, or one for each channel"),
        *each(argument, [True, math.nan, [0.5, math.inf, 0.5]], ValueError, "finite numbers"),
        wrong(argument, [0.5, 0.5], ValueError, "one entry per channel"),
    ]


CALLS = [
    Calls(
        "convert",
        lambda w: {"model": w.model, "example_input": w.images},
        [
            *_MODELS,
            *_inputs(),
            wrong("include", "no such", NothingConvertedError, "no activation", known_as="converted"),
            *each("layer", _LAYERS, TypeError, "must be a subclass of StochasticActivation"),
            *share("alpha"),
            *number("gamma"),
            *several("rules"),
            *each("rules", [["*"], [("*", 3)], [("*",)]], TypeError, "rules[0]", "a pair of a filter and a dict"),
            wrong("rules", [("*", {"sigma": 1})], TypeError, "rules[0]", "'sigma'", "layer, alpha, gamma"),
            wrong("rules", [("*", {"layer": nn.ReLU})], TypeError, "rules[0]", "layer must be a subclass"),
            wrong("rules", [("*", {"gamma": "a"})], ValueError, "gamma", known_as="gamma"),
            wrong("rules", [(3, {})], TypeError, "rules[0]", "globs, module types or a predicate"),
            wrong("rules", [("no such", {})], ConversionError, "rules[0] matches no site", "find_sites"),
            *each("input_noise", [0, -1, "a", True, math.nan, math.inf, [1]], ValueError, "must be sigma > 0"),
        ],
    ),
    Calls("find_sites", lambda w: {"model": w.model, "example_input": w.images}, [*_MODELS, *_inputs()]),
    Calls(
        "revert",
        lambda w: {"model": w.student},
        [*model("model"), wrong("model", Of(lambda w: w.model), ValueError, "not a student made by stocnoise.convert")],
    ),
    Calls("summary", lambda w: {"model": w.student}, model("model")),
    *(
        Calls(
            name,
            lambda w: {"what": nn.Tanh},
            each("what", [3, None, "tanh", OrderedDict, len, torch], TypeError, "torch.tanh", known_as=name),
        )
        for name in ("register_activation", "register_gate")
    ),
    Calls(
        "normalized",
        lambda w: {"model": w.model, "mean": [0.5] * 3, "std": [0.2] * 3},
        [
            *model("model"),
            *_figures("mean"),
            wrong("mean", None, ValueError, "give both or neither"),
            wrong("mean", None, ValueError, "does not say how its images are normalised", std=None),
            *_figures("std"),
            *each("std", [[0.2, 0.0, 0.2], [0.2, -0.1, 0.2]], ValueError, "std positive"),
        ],
    ),
    Calls(
        "attacks.Normalized",
        lambda w: {"model": w.model, "mean": [0.5] * 3, "std": [0.2] * 3},
        [*model("model"), *_figures("mean"), *_figures("std")],
    ),
    Calls(
        "attacks.Normalized.forward",
        lambda w: {"x": w.images},
        [wrong("x", torch.zeros(2, 1, 6, 6), ValueError, "3 channels", "(2, 1, 6, 6)", known_as="images")],
        on=lambda w: stocnoise.normalized(w.student, [0.5] * 3, [0.2] * 3),
    ),
]
