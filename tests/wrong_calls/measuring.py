"""Wrong calls: evaluation, prediction, certificates, tasks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import stocnoise
from stocnoise.evaluation import Budget
from stocnoise.tasks import as_task
from tests.wrong_calls.attacks import BOUNDS, MASK
from tests.wrong_calls.noise import READERS
from tests.wrong_calls.table import (
    Calls,
    Of,
    Row,
    any_whole,
    choice,
    each,
    function,
    model,
    number,
    output,
    path,
    several,
    share,
    task,
    tensor,
    text,
    whole,
    wrong,
)
from tests.wrong_calls.world import batches


def data(argument: str) -> list[Row]:
    return [
        *several(argument),
        wrong(argument, [], ValueError, "gave no batch"),
        wrong(argument, [1, 2], ValueError, "must be (images, labels)", known_as="batch"),
        wrong(argument, [([0.0], [1])], ValueError, "must be a tensor, not list", known_as="batch"),
        wrong(argument, Of(lambda w: [(w.images[:0], w.labels[:0])]), ValueError, "gave no batch"),
        wrong(argument, Of(lambda w: [(w.images[:3], w.labels)]), ValueError, "a row each", known_as="input"),
    ]


def judged(argument: str) -> list[Row]:
    """Batches that a model of three classes and images cannot be judged by."""
    labels = {"float": torch.zeros(4), "high": torch.tensor([0, 1, 2, 3]), "low": torch.tensor([0, 1, 2, -1])}
    found = {name: Of(lambda w, y=y: batches(w.images, y)) for name, y in labels.items()}
    double = Of(lambda w: batches(w.images.double(), w.labels))
    return [
        wrong(argument, found["float"], ValueError, 'task="binary"', known_as="labels", asked=True),
        wrong(argument, found["high"], ValueError, "out of range", known_as="label", asked=True),
        wrong(argument, found["low"], ValueError, "out of range", known_as="label", asked=True),
        wrong(argument, double, ValueError, "torch.float32", known_as="inputs", asked=True),
    ]


def _found(argument: str = "output") -> Row:
    return wrong(argument, "no such", ValueError, "output='no such' finds NoneType", asked=True)


def _certificates(argument: str) -> list[Row]:
    return [*several(argument), *each(argument, [[], [3]], ValueError, "what certify returns")]


def _reports(argument: str, error: type[Exception] = TypeError) -> list[Row]:
    return [wrong(argument, [3], TypeError, "evaluate"), wrong(argument, [{"attacks": []}], TypeError, "evaluate")]


_EPS = [
    *each("eps", [0, -0.1, math.nan, math.inf, [], [0.1, -0.1], [True]], ValueError, "must be positive numbers"),
    *each("eps", [None, "0.1", nn.ReLU], TypeError, "several numbers or tensors"),
    *each("eps", [["a"], [None]], ValueError, "must be positive numbers"),
    wrong("eps", 8.0, ValueError, "8/255"),
    wrong("eps", torch.full((3, 6, 6), 0.1), ValueError, "norm='l2'", norm="l2"),
]

CALLS = [
    Calls(
        "evaluate",
        lambda w: {
            "model": w.student,
            "data": w.loader,
            "attacks": ["random"],
            "eps": 0.1,
            "eot": 1,
            "steps": 1,
            "draws": 2,
            "checks": False,
            "progress": False,
        },
        [
            *model("model"),
            *data("data"),
            *judged("data"),
            wrong("data", Of(lambda w: batches(w.images + 2, w.labels)), ValueError, "[0, 1]", known_as="images"),
            *each("attacks", [3, nn.ReLU, {"pgd": 1}], TypeError, "several names or attack objects"),
            *each("attacks", ["pdg", ["pdg"]], ValueError, "unknown attack 'pdg'", known_as="attack"),
            *each("attacks", [[3], [stocnoise.PGD]], ValueError, "a name or an attack object", known_as="attack"),
            wrong("attacks", [], ValueError, "is empty"),
            wrong("attacks", ["pgd", "pgd"], ValueError, "asked for twice", known_as="attack"),
            wrong("attacks", [stocnoise.PGD(norm="l2")], ValueError, "another norm", known_as="norm"),
            wrong("attacks", ["transfer"], ValueError, "transfer_from=teacher", known_as="attack"),
            *_EPS,
            *task(),
            *output(),
            _found(),
            *READERS,
            *BOUNDS,
            *MASK,
            *function("targets"),
            *whole("eot"),
            *whole("steps"),
            *whole("draws"),
            wrong("queries", [], ValueError, "or several"),
            *each(
                "queries",
                [0, 1.5, "2", True, math.nan, [0], (10, 1.5), {"a": 1}, nn.ReLU],
                ValueError,
                "must be a whole number of at least 1",
            ),
            wrong("queries", 10, ValueError, "does not count", attacks=["pgd"]),
            *choice("norm", "inf", "l2"),
            *model("transfer_from"),
            wrong("mean", [0.5] * 3, ValueError, "give both or neither"),
            *each("mean", ["a", object()], ValueError, "one for each channel", std=[0.2] * 3),
            wrong("std", [0.5] * 3, ValueError, "give both or neither"),
            *each("std", ["a", object()], ValueError, "one for each channel", mean=[0.2] * 3),
            *whole("max_images"),
            *whole("check_images"),
            *whole("keep_examples", 0),
            *any_whole("seed"),
            *text("name"),
            *path("path"),
            wrong("resume", True, ValueError, "needs path="),
        ],
    ),
    Calls(
        "predict",
        lambda w: {"model": w.student, "x": w.images},
        [
            *model("model"),
            *tensor("x"),
            wrong("x", torch.zeros(0, 3, 6, 6), ValueError, "the batch is empty"),
            wrong("x", torch.tensor(0.5), ValueError, "has no rows"),
            wrong("x", torch.zeros(2, 3, 6, 6).byte(), ValueError, "divide images by 255", known_as="inputs"),
            wrong("x", torch.zeros(2, 3, 6, 6, device="meta"), ValueError, "meta", "cpu", known_as="inputs"),
            *whole("samples"),
            *task(),
            wrong("task", "binary", ValueError, "one logit", asked=True),
            *output(),
            _found(),
            *each("others", [3, {"mask": None}], TypeError, "stocnoise.batches.Others"),
        ],
    ),
    Calls(
        "plot_asr",
        lambda w: {"reports": [w.report], "attack": "random"},
        [
            *several("reports"),
            *_reports("reports"),
            wrong("reports", [], ValueError, "all of the same norm"),
            *each("attack", ["no such", 3, None], ValueError, "the report has no attack", "random"),
            *path("path"),
        ],
    ),
    Calls("Report.to_html", lambda w: {"path": "report.html"}, path("path"), on=lambda w: w.report),
    Calls("Report.save", lambda w: {"path": "report.json"}, path("path"), on=lambda w: w.report),
    Calls(
        "Report.plot",
        lambda w: {},
        [
            *several("attacks"),
            wrong("attacks", ["no such"], ValueError, "no attack 'no such'", "random", known_as="attack"),
            *path("path"),
        ],
        on=lambda w: w.report,
    ),
    Calls(
        "Report.plot_queries",
        lambda w: {},
        [
            *each("eps", [0.3, "a"], ValueError, "only 0.1"),
            *path("path"),
        ],
        on=lambda w: w.counted,
    ),
    Calls(
        "Report.query_curves",
        lambda w: {"eps": 0.1},
        each("eps", [0.3, "a", None], ValueError, "only 0.1"),
        on=lambda w: w.counted,
    ),
    Calls(
        "Report.curve",
        lambda w: {"attack": "random"},
        each("attack", ["no such", 3, None], ValueError, "the report has no attack", "random"),
        on=lambda w: w.report,
    ),
    Calls(
        "Report.compare",
        lambda w: {"others": (w.report,)},
        [wrong("others", (3,), TypeError, "evaluate"), wrong("others", ({},), TypeError, "evaluate")],
        on=lambda w: w.report,
    ),
    Calls("evaluation.Averaged", lambda w: {"model": w.student}, [*model("model"), *whole("samples"), *task()]),
    Calls("evaluation.Voting", lambda w: {"model": w.student}, [*model("model"), *whole("samples")]),
    Calls(
        "evaluation.Budget",
        lambda w: {"steps": 2, "tries": 2},
        [
            *whole("steps"),
            *whole("tries"),
            *each("attacks", [3, "pgd", None], TypeError, "several of pgd, apgd"),
            *each("attacks", [(), ("pdg",)], ValueError, "must be of pgd, apgd"),
        ],
    ),
    Calls(
        "evaluation.Strongest",
        lambda w: {"budgets": (Budget(2, 2),)},
        [
            *each("budgets", [3, None, Budget(2, 2), (3,)], TypeError, "evaluation.Budget"),
            *each("budgets", [(), (Budget(2, 2, ("noise off",)),)], ValueError, "pgd, apgd or apgd-margin"),
            *text("version"),
        ],
    ),
    Calls(
        "certify",
        lambda w: {"student": w.noisy, "data": w.loader, "n0": 2, "n": 20, "alpha": 0.01, "progress": False},
        [
            *model("student"),
            wrong("student", Of(lambda w: w.student), ValueError, "with_input_noise(model, sigma)", known_as="model"),
            *data("data"),
            *judged("data"),
            *whole("n0"),
            *whole("n"),
            wrong("n", 3, ValueError, "certify no radius at alpha=0.01", "at least n="),
            *share("alpha", inner=True),
            *whole("batch"),
            *number("at", above_zero=True),
            wrong("at", 100.0, ValueError, "more draws", known_as="radius"),
            *task(),
            wrong("task", "multilabel", ValueError, "one answer among classes"),
            *output(),
            _found(),
            *choice("precision", "no", "bf16", "fp16"),
            *whole("max_images"),
            *any_whole("seed"),
            *text("name"),
            *path("path"),
            wrong("resume", True, ValueError, "needs the path", known_as="resume"),
        ],
    ),
    Calls(
        "adapt_batch_norm",
        lambda w: {"model": w.noisy, "loader": w.loader},
        [
            *model("model"),
            wrong("model", nn.ReLU(), ValueError, "no BatchNorm"),
            *data("loader"),
            *whole("batches"),
        ],
    ),
    Calls(
        "plot_certificates",
        lambda w: {"certificates": [w.certificate]},
        [*_certificates("certificates"), *path("path"), *text("title")],
    ),
    *(
        Calls(f"Certificate.{name}", lambda w: {"r": 0.1}, number("r"), on=lambda w: w.certificate)
        for name in ("accuracy", "rate")
    ),
    *(
        Calls(
            f"Certificate.{name}", lambda w, end=end: {"path": f"file{end}"}, path("path"), on=lambda w: w.certificate
        )
        for name, end in (("plot", ".png"), ("to_html", ".html"), ("save", ".json"))
    ),
    Calls(
        "Certificate.load",
        lambda w: {"path": w.saved},
        [
            *path("path"),
            wrong("path", Of(lambda w: w.file), stocnoise.FileFormatError, "JSON", known_as="safetensors"),
            wrong("path", "no such", FileNotFoundError, "there is no file", known_as="file"),
        ],
        on=lambda w: w.certificate,
    ),
    Calls(
        "Task",
        lambda w: {"loss": lambda output, target: output[:, 0], "wrong": lambda output, target: target > 0},
        [
            *(row for name in ("loss", "wrong", "average", "probabilities", "classes") for row in function(name)),
            *(row for name in ("decide", "logits", "margin", "units", "overlaps") for row in function(name)),
            *(row for name in ("read_target", "check") for row in function(name)),
            *choice("link", "softmax", "sigmoid"),
            *text("name"),
            *output(),
        ],
    ),
    Calls(
        "Task.read",
        lambda w: {"answer": torch.zeros(4, 3)},
        each("answer", [3, [torch.zeros(4)], {"a": 1}, np.zeros(3)], ValueError, "output= says", known_as="model"),
        on=lambda w: as_task("multiclass"),
    ),
    Calls("tasks.as_task", lambda w: {"task": "multiclass"}, [*task(), *output()]),
    Calls("tasks.segmentation", lambda w: {}, any_whole("ignore_index")),
]
