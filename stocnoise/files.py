"""`save` and `load`: a student, or a mixture, in one safetensors file. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stocnoise import description, storage
from stocnoise.checks import check_model, check_path, check_several, optional
from stocnoise.conversion import conversion_of
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.conversion.rules import check_layer
from stocnoise.errors import FileFormatError
from stocnoise.input_noise import with_input_noise
from stocnoise.layers import StochasticActivation
from stocnoise.mixture import Blend, Mixture
from stocnoise.portable import class_name, described, restored
from stocnoise.predictors import Averaged, Predictor, Voting, one_draw
from stocnoise.tasks import Task


def save(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a student, or a mixture: all of its state, and how it was made.

    The file is safetensors; its metadata hold a version, a checksum and one JSON object: class of the model, layers
    with site, noise, α and γ, the example's shapes, σ of noise on the input, and the mean and std of `normalized`. That
    may stand inside the student or around it: the file is the same. Of a mixture it holds its numbers and both halves,
    each of them a student or any other model, perhaps `Averaged`. It appears under `path` whole, or not at all.

    Raises:
        ValueError: `student` was made neither by `convert` nor by `mix`, its state holds something other than tensors,
            or its σ, γ or α is something that `load` refuses.
        OSError: the file system refused.

    Example:
        >>> stocnoise.save(student, "student.safetensors")
    """
    check_model("student", student)
    check_path("path", path)
    inside, input_noise = description.apart(student)
    if isinstance(inside, Mixture):
        about, tensors, version = *_described_mixture(inside, input_noise), 4
    else:
        conversion_of(inside)  # refuses what is none
        about, tensors = described(student)
        # Version 1 says nothing of mean and std, 2 nothing of noise on the input, 3 nothing of mixtures: their readers
        # would leave it out.
        version = 3 if "input_noise" in about else 2 if "normalization" in about else 1
    try:
        description.check(about, tensors)
    except FileFormatError as error:
        raise ValueError(f"this student cannot be saved: {error}") from error
    storage.write(Path(path), "student", about, tensors, version)


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    example_input: Any = None,
    *,
    more_inputs: Iterable[Any] = (),
    layer: type[StochasticActivation] | None = None,
) -> nn.Module:
    """The student or the mixture in `path`, built on a copy of `model`, which stays as it is.

    Args:
        path: a file written by `save`.
        model: a deterministic model of the class and configuration that was converted; its weights do not matter. If
            `normalized` stood inside or around the student, it stands around this model. For a mixture: one of two such
            models, `mix(model, teacher)`, whose numbers do not matter either.
        example_input: as in `convert`; needed only where the one used then could not be noted in the file, or where
            values decide what runs: of numbers that are not whole the file has the shapes alone.
        more_inputs: as in `convert`.
        layer: the noise, if it is a class of your own.

    Raises:
        FileFormatError: the file is truncated, altered, of a newer version or not a student, says what cannot be, or is
            of another model or of one with another mean and std. Nothing has been built then.
        FileNotFoundError: there is no such file.

    Example:
        >>> stocnoise.save(student, "student.safetensors")
        >>> student = stocnoise.load("student.safetensors", model)
    """
    check_path("path", path)
    check_model("model", model)
    check_several("more_inputs", more_inputs, "example inputs")
    optional(check_layer, "layer", layer)
    about, tensors = storage.read(Path(path), "student")
    try:
        description.check(about, tensors)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    given = unwrap_compiled(model)
    inputs = (example_input, *more_inputs)
    if "mixture" not in about:
        if isinstance(given, Mixture):
            raise FileFormatError(f"{path} holds one student, not a mixture: load it with its model, and mix then")
        return restored(str(path), about, tensors, model, inputs, layer)
    if not isinstance(given, Mixture):
        raise FileFormatError(
            f"{path} holds a mixture, and this {class_name(given)} is none: stocnoise.load(path, "
            "stocnoise.mix(model, teacher))"
        )
    halves: dict[str, nn.Module] = {}
    for half, empty in _halves(given).items():
        own = description.of_half(tensors, half)
        made = restored(f"{path}, {half}", about[half], own, one_draw(empty), inputs, layer)
        halves[half] = _averaged(made, about[half], given.task)
    mixture = Mixture(halves["student"], halves["teacher"], Blend(**about["mixture"]), given.task)
    return with_input_noise(mixture, about["input_noise"]) if "input_noise" in about else mixture


def _described_mixture(mixture: Mixture, input_noise: float | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about: dict[str, Any] = {"mixture": dataclasses.asdict(mixture.blend)}
    tensors: dict[str, Tensor] = {}
    for half, model in _halves(mixture).items():
        about[half], own = described(one_draw(model))
        if isinstance(model, Averaged):
            about[half]["predictor"] = {"class": type(model).__name__, "samples": model.samples}
        tensors |= {f"{half}.{key}": value for key, value in own.items()}
    return about | ({} if input_noise is None else {"input_noise": input_noise}), tensors


def _halves(mixture: Mixture) -> dict[str, nn.Module]:
    """Out of `torch.compile`; ValueError if one is put together itself, in a way that a file does not tell."""
    halves = {"student": unwrap_compiled(mixture.student), "teacher": unwrap_compiled(mixture.teacher)}
    for half, model in halves.items():
        if any(isinstance(module, Predictor) for module in one_draw(model).modules()):
            raise ValueError(f"the {half} of this mixture is made of several models itself, which a file does not hold")
    return halves


def _averaged(model: nn.Module, about: Mapping[str, Any], task: Task) -> nn.Module:
    """The model, or the predictor that it was in."""
    if "predictor" not in about:
        return model
    samples = about["predictor"]["samples"]
    return Voting(model, samples) if about["predictor"]["class"] == "Voting" else Averaged(model, samples, task)
