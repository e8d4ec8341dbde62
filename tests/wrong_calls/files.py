"""Wrong calls: files, and folders of the Hub."""

from __future__ import annotations

import math

import torch
from torch import nn

from stocnoise.architectures import UnknownModelError
from stocnoise.errors import FileFormatError
from tests.wrong_calls.table import Calls, Of, each, model, path, several, text, whole, wrong

_STUDENT = wrong("student", Of(lambda w: w.model), ValueError, "not a student made by stocnoise.convert")
_DATA = [3, "a", [("lr", 0.1)]]


CALLS = [
    Calls(
        "save",
        lambda w: {"student": w.student, "path": "new.safetensors"},
        [
            *model("student"),
            _STUDENT,
            *path("path"),
            wrong("path", "no such folder/a", OSError, "no such folder/a could not be written", known_as="written"),
        ],
    ),
    Calls(
        "load",
        lambda w: {"path": w.file, "model": w.model},
        [
            *path("path"),
            wrong("path", "no such", FileNotFoundError, "there is no file", known_as="file"),
            wrong("path", Of(lambda w: w.saved), FileFormatError, "not a safetensors file", known_as="file"),
            *model("model"),
            wrong("model", nn.Sequential(nn.Linear(3, 3), nn.ReLU()), FileFormatError, "does not fit this"),
            *each("example_input", [3, "a"], FileFormatError, "check example_input"),
            *several("more_inputs"),
            *each("layer", [nn.ReLU, "StocReLUEMA", 3, 0], TypeError, "must be a subclass of StochasticActivation"),
        ],
    ),
    Calls(
        "hub.save",
        lambda w: {"student": w.student, "folder": "hub"},
        [
            *model("student"),
            _STUDENT,
            *path("folder"),
            *text("teacher"),
            wrong("teacher", "resnet18x", UnknownModelError, "'resnet18x'", "did you mean", known_as="model"),
            *whole("classes"),
            *each("training", _DATA, TypeError, "a dict of names and values"),
            *each("training", [{"lr": torch.tensor(0.1)}, {"lr": math.nan}], ValueError, "what JSON holds"),
            *each("report", _DATA, TypeError, "a dict of names and values"),
            *each("report", [{}, {"clean": 3}], ValueError, "what Report.to_dict gives"),
            *text("dataset"),
            *text("license"),
        ],
    ),
    Calls(
        "hub.load",
        lambda w: {"repository": w.hub, "model": w.model},
        [
            *path("repository"),
            wrong("repository", "no such/folder/here", FileNotFoundError, "is no folder", known_as="repository"),
            *model("model"),
            wrong("model", None, FileFormatError, "pass hub.load the model"),
            wrong("model", nn.Sequential(nn.Linear(3, 3), nn.ReLU()), FileFormatError, "does not fit this"),
            wrong("example_input", 3, FileFormatError, "check example_input"),
            *text("revision"),
        ],
    ),
    Calls(
        "hub.push",
        lambda w: {"student": w.student, "repository": "name"},
        [*model("student"), _STUDENT, *text("repository"), *text("message")],
        alone=False,
    ),
]
