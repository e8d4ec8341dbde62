"""`save` and `load`: a student in one safetensors file. Nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stocnoise import description, storage
from stocnoise import layers as _layers
from stocnoise import noises as _noises
from stocnoise.controls import stochastic_layers
from stocnoise.conversion import conversion_of, convert, student_in
from stocnoise.conversion.changing.disguise import undisguised
from stocnoise.conversion.example import recall
from stocnoise.conversion.filters import Filter
from stocnoise.conversion.rules import Rule
from stocnoise.errors import ConversionError, ExampleInputError, FileFormatError
from stocnoise.input_noise import with_input_noise
from stocnoise.layers import StochasticActivation


def save(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a student: all of its state, and how it was converted.

    The file is safetensors; its metadata hold a version, a checksum and one JSON object: class of the model, layers
    with site, noise, α and γ, the example's shapes, σ of noise on the input, and the mean and std of `normalized`. That
    may stand inside the student or around it: the file is the same. It appears under `path` whole, or not at all.

    Raises:
        ValueError: `student` was not made by `convert`, its state holds something other than tensors, or its σ, γ or α
            is something that `load` refuses.
        OSError: the file system refused.
    """
    student, input_noise = description.apart(student)
    conversion = conversion_of(student)
    found = student_in(student)
    assert found is not None  # `conversion_of` would have said so
    prefix, inner = found
    state = {prefix + key: value for key, value in inner.state_dict().items()}
    foreign = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"the state of this model holds more than tensors, which is not saved: {', '.join(foreign)}")
    tensors, aliases = _without_aliases(state)
    layers = {(prefix + name).removesuffix("."): layer for name, layer in stochastic_layers(inner)}
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
                "class": undisguised(layers[path]).__name__,
                "alpha": layers[path].alpha,
                "gamma": layers[path].gamma.item(),
            }
            for path, site in conversion.layers
        ],
        "aliases": aliases,
    }
    if figures := description.normalizations(student):
        about["normalization"] = figures
    if input_noise is not None:
        about["input_noise"] = input_noise
    try:
        description.check(about, tensors)
    except FileFormatError as error:
        raise ValueError(f"this student cannot be saved: {error}") from error
    # Version 1 says nothing of mean and std, 2 nothing of noise on the input: their readers would leave it out.
    version = 3 if input_noise is not None else 2 if figures else 1
    storage.write(Path(path), "student", about, tensors, version)


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
        model: a deterministic model of the class and configuration that was converted; its weights do not matter. If
            `normalized` stood inside or around the student, it stands around this model.
        example_input: as in `convert`; needed only where the one used then could not be noted in the file, or where
            values decide what runs: of numbers that are not whole the file has the shapes alone.
        more_inputs: as in `convert`.
        layer: the noise, if it is a class of your own.

    Raises:
        FileFormatError: the file is truncated, altered, of a newer version or not a student, says what cannot be, or is
            of another model or of one with another mean and std. Nothing has been built then.
        FileNotFoundError: there is no such file.
    """
    about, tensors = storage.read(Path(path), "student")
    try:
        description.check(about, tensors)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    _require_same_normalization(path, about, model)
    noise = layer or _layer_named(about["layer"])
    rules = () if layer else _rules(about["layers"])
    recalled = example_input is None and about["example"] is not None
    inputs = recall(model, about["example"]) if recalled else [example_input, *more_inputs]
    names = {entry["site"] for entry in about["layers"]}
    try:
        student = convert(
            model,
            inputs[0],
            more_inputs=inputs[1:],
            include=_among(names),
            layer=noise,
            rules=rules,
        )
    except ConversionError as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, ExampleInputError) and example_input is None:
            what = "the example input that the file recalls" if recalled else "an image of the default size"
            reason = (
                f"the model did not run on {what} ({type(error.__cause__).__name__}: "
                f"{(str(error.__cause__).strip().splitlines() or [''])[0]}); if it is the right model, pass "
                "stocnoise.load its example_input, what the model is called with"
            )
        raise FileFormatError(
            f"{path}, a {about['class']}, does not fit this {_class_name(model)}: {reason}"
        ) from error
    found = dict(stochastic_layers(student))
    wanted = {entry["path"]: (entry["class"], entry["channels"]) for entry in about["layers"]}
    have = {path: (undisguised(layer).__name__, layer.num_channels) for path, layer in found.items()}
    state = {**tensors, **{alias: tensors[key] for alias, key in about["aliases"].items()}}
    expected = student.state_dict()
    wrong = _differences(wanted, have) or _differences(
        {key: _form(value) for key, value in state.items()},
        {key: _form(value) for key, value in expected.items()},
    )
    if wrong:
        raise FileFormatError(
            f"{path} holds a student of {about['class']} that differs from this {_class_name(model)}: {wrong}"
        )
    student.load_state_dict(state)
    for entry in about["layers"]:
        found[entry["path"]].alpha = entry["alpha"]
    return with_input_noise(student, about["input_noise"]) if "input_noise" in about else student


def _require_same_normalization(path: str | os.PathLike[str], about: Mapping[str, Any], model: nn.Module) -> None:
    """FileFormatError unless mean and std of the model are those of the file, where it speaks of them."""
    if "normalization" not in about:
        return
    saved, given = about["normalization"], description.normalizations(model)
    for place in [*saved, *given]:
        theirs, ours = saved.get(place), given.get(place)
        if not description.same_figures(theirs, ours):
            where = f" at {place}" if place else ""
            raise FileFormatError(
                f"{path} holds a student {_normalized(theirs)}, and this model is {_normalized(ours)}{where}: give it "
                "what the file has, stocnoise.load(path, stocnoise.normalized(model, mean, std))"
            )


def _normalized(figures: Mapping[str, Any] | None) -> str:
    return "not normalized" if figures is None else f"normalized with mean {figures['mean']} and std {figures['std']}"


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


def _form(tensor: Tensor) -> str:
    """Shape and kind: a student is loaded in any precision, but integers are not weights."""
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    kind = tensor.dtype if whole else "complex" if tensor.is_complex() else "floating-point"
    return f"{tuple(tensor.shape)}, {kind}".replace("torch.", "")


_OWN = {
    name: cls
    for module in (_layers, _noises)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, StochasticActivation)
}


def _layer_named(name: str) -> type[StochasticActivation]:
    if name not in _OWN:
        raise FileFormatError(
            f"this student's noise is a {name}, which is not stocnoise's own: pass it as layer={name}"
        )
    return _OWN[name]


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
