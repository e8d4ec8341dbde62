"""Wrong calls: the layers, what is done to all of a model's, noise on the input, and the operation itself."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import stocnoise
from tests.wrong_calls.table import (
    Calls,
    Of,
    Row,
    any_whole,
    each,
    function,
    inherited,
    model,
    number,
    several,
    share,
    tensor,
    whole,
    wrong,
)

_STUDENTS = [*model("model"), wrong("model", Of(lambda w: w.model), ValueError, "convert it first")]

READERS = [
    *each("batch", ["labels", 3, ["x"], True], ValueError, "must name the entries of a batch"),
    wrong("batch", ("x", "y"), ValueError, "does not fit a batch", asked=True),
    wrong("batch", lambda batch: None, ValueError, "must make (input, target)", asked=True),
]

_INPUT_NOISE = each("sigma", [0, -1.0, "a", True, math.nan, math.inf, [0.5]], ValueError, "must be sigma > 0")

_DEVICES = each("device", ["a", 1.5, [], np.zeros(2)], ValueError, "must be a torch.device")


def _layer(name: str, **right: object) -> Calls:
    cls = getattr(stocnoise, name)
    rows: list[Row] = [
        *whole("num_channels"),
        *function("activation"),
        *share("alpha"),
        *number("gamma"),
        *any_whole("channel_dim"),
        *_DEVICES,
    ]
    if cls.default is None:
        rows.append(wrong("activation", None, TypeError, "needs an activation", "torch.nn.ELU()"))
    if name != "StochasticActivation":
        rows = inherited(rows)
    return Calls(name, lambda w: {"num_channels": 4, **right}, rows)


CALLS = [
    Calls(
        "calibrate",
        lambda w: {"model": w.student, "loader": w.loader},
        [
            *_STUDENTS,
            *several("loader"),
            wrong("loader", [], ValueError, "gave no batch"),
            wrong("loader", [1, 2], ValueError, "must hold a tensor first", known_as="loader"),
            wrong("loader", [np.zeros((2, 3, 6, 6))], ValueError, "must hold a tensor first", known_as="loader"),
            wrong("loader", [torch.zeros(2, 3, 6, 6).byte()], ValueError, "divide images by 255", known_as="inputs"),
            *whole("batches"),
            *READERS,
        ],
    ),
    Calls("set_gamma", lambda w: {"model": w.student, "gamma": 0.1}, [*_STUDENTS, *number("gamma")]),
    Calls("freeze_sigma", lambda w: {"model": w.student}, _STUDENTS),
    Calls("deterministic", lambda w: {"model": w.student}, _STUDENTS),
    Calls("fixed_noise", lambda w: {"model": w.student, "seed": 1}, [*_STUDENTS, *any_whole("seed")]),
    Calls("stochastic_layers", lambda w: {"model": w.student}, model("model")),
    *(_layer(name, activation=nn.ReLU()) for name in ("StochasticActivation", "StocEMA", "StocFixed", "StocL2P")),
    *(_layer(f"Stoc{name}EMA") for name in ("ReLU", "ReLU6", "LeakyReLU", "GELU", "GELUTanh", "SiLU", "Hardswish")),
    Calls(
        "StochasticActivation.forward",
        lambda w: {"x": torch.rand(2, 4, 3, 3)},
        [
            wrong("x", torch.rand(2, 3), ValueError, "4 channels along dimension 1", known_as="input", asked=True),
            wrong("x", torch.ones(2, 4).long(), ValueError, "floating-point", known_as="input", asked=True),
        ],
        on=lambda w: w.layer,
    ),
    Calls(
        "with_input_noise",
        lambda w: {"model": w.model, "sigma": 0.5},
        [
            *model("model"),
            wrong("model", Of(lambda w: w.noisy), ValueError, "noise on its input already"),
            *_INPUT_NOISE,
        ],
    ),
    Calls("InputNoise", lambda w: {"model": w.model, "sigma": 0.5}, [*model("model"), *_INPUT_NOISE]),
    *(
        Calls(
            f"InputNoise.{method}",
            lambda w: {"x": w.images},
            [*tensor("x"), wrong("x", torch.ones(2, 3).long(), ValueError, "floating-point", known_as="inputs")],
            on=lambda w: w.noisy,
        )
        for method in ("forward", "added")
    ),
    Calls(
        "functional.stoc_act",
        lambda w: {"x": w.images, "sigma": w.sigma, "gamma": w.gamma, "seed": w.seed},
        [
            *tensor("x"),
            wrong("x", torch.ones(2, 3).long(), ValueError, "floating-point", known_as="input"),
            *tensor("sigma"),
            wrong("sigma", torch.ones(5), ValueError, "5 channels along dimension 1", known_as="channels"),
            wrong("sigma", torch.ones(1, 3), ValueError, "1 dimension"),
            *tensor("gamma"),
            wrong("gamma", torch.ones(3), ValueError, "0 dimensions"),
            *tensor("seed"),
            wrong("seed", torch.tensor(7), ValueError, "1 dimension"),
            wrong("seed", torch.tensor([0.5]), ValueError, "int64", "draw_seed"),
            *each("activation", ["elu", None, ["relu"], nn.ReLU], ValueError, "unknown activation", "relu"),
            *each("slope", ["a", None, math.nan, True], ValueError, "finite number"),
            *any_whole("channel_dim"),
            wrong("channel_dim", 7, ValueError, "3 channels along dimension 7", known_as="channels"),
        ],
    ),
    Calls(
        "functional.update_sigma",
        lambda w: {
            "sigma": torch.ones(3),
            "before": torch.ones(3),
            "batches": torch.tensor(0),
            "moments": w.moments,
            "alpha": 0.5,
        },
        [
            *tensor("sigma"),
            wrong("sigma", torch.ones(1, 3), ValueError, "shape (C,)"),
            *tensor("before"),
            wrong("before", torch.ones(2), ValueError, "sigma's shape"),
            *tensor("batches"),
            wrong("batches", torch.tensor([0]), ValueError, "0-dim int64"),
            wrong("batches", torch.tensor(0.0), ValueError, "0-dim int64"),
            *tensor("moments"),
            wrong("moments", torch.ones(3, 3), ValueError, "(W, 3, 3)"),
            wrong("moments", torch.ones(1, 3, 4), ValueError, "(W, 3, 3)"),
            *share("alpha"),
        ],
    ),
    Calls("functional.draw_seed", lambda w: {"device": "cpu"}, _DEVICES),
]
