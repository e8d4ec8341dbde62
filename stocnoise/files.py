"""`save` and `load`: a student in one safetensors file. Nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stocnoise import layers as _layers
from stocnoise import noises as _noises
from stocnoise import storage
from stocnoise.controls import stochastic_layers
from stocnoise.conversion import conversion_of, convert
from stocnoise.conversion.example import recall
from stocnoise.conversion.filters import Filter
from stocnoise.conversion.rules import Rule
from stocnoise.errors import ConversionError, FileFormatError
from stocnoise.layers import StochasticActivation


def save(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a student: all of its state, and how it was converted.

    The file is safetensors; its metadata hold a version, a checksum and one JSON object: class of the model, layers
    with site, noise, α and γ, and the example's shapes. It appears under `path` whole, or not at all.

    Raises:
        ValueError: `student` was not made by `convert`, or its state holds something other than tensors.
        OSError: the file system refused.
    """
    conversion = conversion_of(student)
    student = getattr(student, "_orig_mod", student)
    state = student.state_dict()
    foreign = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"the state of this model holds more than tensors, which is not saved: {', '.join(foreign)}")
    tensors, aliases = _without_aliases(state)
    found = dict(stochastic_layers(student))
    about = {
        "class": _class_name(student),
        "layer": conversion.layer,
        "example": conversion.example,
        "layers": [
            {
                "path": path,
                "site": site.name,
                "kind": site.kind,
                "activation": site.activation,
                "channels": site.channels,
                "class": type(found[path]).__name__,
                "alpha": found[path].alpha,
                "gamma": found[path].gamma.item(),
            }
            for path, site in conversion.layers
        ],
        "aliases": aliases,
    }
    storage.write(Path(path), "student", about, tensors)


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    example_input: Any = None,
    *,
    more_inputs: Iterable[Any] = (),
    layer: type[StochasticActivation] | None = None,
) -> nn.Module:
    """The student in `path`, built on a copy of `model`, which stays as it is.

    Args:
        path: a file written by `save`.
        model: a deterministic model of the class and configuration that was converted; its weights do not matter.
        example_input: as in `convert`; needed only where the one used then could not be noted in the file, or where
            values decide what runs: of numbers that are not whole the file has the shapes alone.
        more_inputs: as in `convert`.
        layer: the noise, if it is a class of your own.

    Raises:
        FileFormatError: the file is truncated, altered, of a newer version or not a student, or of another model.
        FileNotFoundError: there is no such file.
    """
    about, tensors = storage.read(Path(path), "student")
    more = list(more_inputs)
    if example_input is None and about["example"] is not None:
        example_input, *more = recall(model, about["example"])
    names = {entry["site"] for entry in about["layers"]}
    try:
        student = convert(
            model,
            example_input,
            more_inputs=more,
            include=_among(names),
            layer=layer or _layer_named(about["layer"]),
            rules=() if layer else _rules(about["layers"]),
        )
    except ConversionError as error:
        given, reason = _class_name(model), str(error).splitlines()[0]
        raise FileFormatError(f"{path}, a {about['class']}, does not fit this {given}: {reason}") from error
    found = dict(stochastic_layers(student))
    wanted = {entry["path"]: (entry["class"], entry["channels"]) for entry in about["layers"]}
    have = {path: (type(layer).__name__, layer.num_channels) for path, layer in found.items()}
    state = {**tensors, **{alias: tensors[key] for alias, key in about["aliases"].items()}}
    expected = student.state_dict()
    wrong = _differences(wanted, have) or _differences(
        {key: tuple(value.shape) for key, value in state.items()},
        {key: tuple(value.shape) for key, value in expected.items()},
    )
    if wrong:
        raise FileFormatError(
            f"{path} holds a student of {about['class']} that differs from this {_class_name(model)}: {wrong}"
        )
    student.load_state_dict(state)
    for entry in about["layers"]:
        found[entry["path"]].alpha = entry["alpha"]
    return student


def _without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, on the CPU, and under which other keys it stands too (tied weights)."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), value.device)
        if value.numel() and place in first:
            aliases[key] = first[place]
        else:
            first[place] = key
            tensors[key] = value.detach().cpu().contiguous().clone()
    return tensors, aliases


def _differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first thing that two descriptions do not agree on, or nothing."""
    for key in [*saved, *given]:
        if key not in given:
            return f"only the file has {key}"
        if key not in saved:
            return f"only the model has {key}"
        if saved[key] != given[key]:
            return f"{key} is {saved[key]} in the file and {given[key]} in the model"
    return ""


def _layer_named(name: str) -> type[StochasticActivation]:
    found = getattr(_layers, name, None) or getattr(_noises, name, None)
    if found is None:
        raise FileFormatError(
            f"this student's noise is a {name}, which is not stocnoise's own: pass it as layer={name}"
        )
    return found


def _rules(entries: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """The class of each layer, for `convert`."""
    paths: dict[str, set[str]] = {}
    for entry in entries:
        paths.setdefault(entry["class"], set()).add(entry["path"])
    return [(_among(mine), {"layer": _layer_named(cls)}) for cls, mine in paths.items()]


def _among(names: set[str]) -> Filter:
    return lambda name, module: name in names


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
