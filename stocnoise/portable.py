"""A model as JSON and tensors, and back: a student, converted anew from its model, or any other model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stocnoise import description
from stocnoise import layers as _layers
from stocnoise import noises as _noises
from stocnoise.controls import stochastic_layers
from stocnoise.conversion import conversion_of, convert, student_in
from stocnoise.conversion.changing.disguise import undisguised
from stocnoise.conversion.changing.sites import Conversion
from stocnoise.conversion.example import recall
from stocnoise.conversion.filters import Filter
from stocnoise.conversion.rules import Rule
from stocnoise.errors import ConversionError, ExampleInputError, FileFormatError
from stocnoise.input_noise import with_input_noise
from stocnoise.layers import StochasticActivation
from stocnoise.state_dicts import differences, forms, without_aliases


def described(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A student, or any other model, as JSON and tensors."""
    model, input_noise = description.apart(model)
    found = student_in(model)
    prefix, inner = found or ("", model)
    state = {prefix + (key if found else _bare(key)): value for key, value in inner.state_dict().items()}
    foreign = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"the state of this model holds more than tensors, which is not saved: {', '.join(foreign)}")
    tensors, aliases = without_aliases(state)
    about: dict[str, Any] = {"class": class_name(model)}
    if found:
        layers = {(prefix + name).removesuffix("."): layer for name, layer in stochastic_layers(inner)}
        about |= _converted(conversion_of(model), layers)
    about["aliases"] = aliases
    if figures := description.normalizations(model):
        about["normalization"] = figures
    if input_noise is not None:
        about["input_noise"] = input_noise
    return about, tensors


def _converted(conversion: Conversion, layers: Mapping[str, StochasticActivation]) -> dict[str, Any]:
    """How a student was converted; its layers by their paths."""
    return {
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
    }


def restored(
    where: str,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    inputs: Sequence[Any],
    layer: type[StochasticActivation] | None,
) -> nn.Module:
    """What was described, on a copy of `model`.

    Args:
        where: what messages begin with, the path.
        about, tensors: what `described` gave, and `description.check` found sound.
        model: of the class that it was, unconverted, its weights any.
        inputs: of a student, what it is converted with; the first None where the file recalls them.
        layer: of a student, the noise if it is none of ours.

    Raises:
        FileFormatError: the two do not fit together.
    """
    _require_same_normalization(where, about, model)
    if "layers" in about:
        made = _student(where, about, tensors, model, inputs, layer)
    else:
        made = _plain(where, about, tensors, model)
    return with_input_noise(made, about["input_noise"]) if "input_noise" in about else made


def _plain(where: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module) -> nn.Module:
    """A copy of a model that is no student, with the state in the file."""
    made = copy.deepcopy(model)
    names = {_bare(key): key for key in made.state_dict()}
    expected = {name: made.state_dict()[key] for name, key in names.items()}
    state = {**tensors, **{alias: tensors[key] for alias, key in about["aliases"].items()}}
    foreign = [name for name, value in expected.items() if not isinstance(value, Tensor)]
    wrong = f"the model's {foreign[0]} is no tensor" if foreign else differences(forms(state), forms(expected))
    if wrong:
        raise FileFormatError(f"{where}: a {about['class']} that differs from this {class_name(model)}: {wrong}")
    made.load_state_dict({names[name]: value for name, value in state.items()})
    return made


def _student(
    path: str,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    given: Sequence[Any],
    layer: type[StochasticActivation] | None,
) -> nn.Module:
    """The student, converted from a copy of `model` with the inputs that the file recalls, or those `given`."""
    noise = layer or _layer_named(about["layer"])
    rules = () if layer else _rules(about["layers"])
    recalled = given[0] is None and about["example"] is not None
    inputs = recall(model, about["example"]) if recalled else given
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
        if isinstance(error, ExampleInputError) and given[0] is None:
            what = "the example input that the file recalls" if recalled else "an image of the default size"
            reason = (
                f"the model did not run on {what} ({type(error.__cause__).__name__}: "
                f"{(str(error.__cause__).strip().splitlines() or [''])[0]}); if it is the right model, pass "
                "stocnoise.load its example_input, what the model is called with"
            )
        raise FileFormatError(f"{path}, a {about['class']}, does not fit this {class_name(model)}: {reason}") from error
    found = dict(stochastic_layers(student))
    wanted = {entry["path"]: (entry["class"], entry["channels"]) for entry in about["layers"]}
    have = {path: (undisguised(layer).__name__, layer.num_channels) for path, layer in found.items()}
    state = {**tensors, **{alias: tensors[key] for alias, key in about["aliases"].items()}}
    wrong = differences(wanted, have) or differences(forms(state), forms(student.state_dict()))
    if wrong:
        raise FileFormatError(
            f"{path} holds a student of {about['class']} that differs from this {class_name(model)}: {wrong}"
        )
    student.load_state_dict(state)
    for entry in about["layers"]:
        found[entry["path"]].alpha = entry["alpha"]
    return student


def _require_same_normalization(path: str, about: Mapping[str, Any], model: nn.Module) -> None:
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


def _bare(key: str) -> str:
    return key.replace("_orig_mod.", "")


def class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
