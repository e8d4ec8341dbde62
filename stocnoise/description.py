"""What the file of a student says in JSON, and whether that can be: all of it is looked at before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stocnoise import schema
from stocnoise.conversion import described
from stocnoise.conversion.changing.sites import Kind
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.errors import FileFormatError
from stocnoise.input_noise import InputNoise
from stocnoise.mixture import SCALES
from stocnoise.normalization import Normalized

HALVES = ("student", "teacher")
"""Of a mixture: fields of its JSON, and what the names of their tensors begin with."""


def check(about: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise FileFormatError, naming the field, unless `about` is what `stocnoise.save` writes with these tensors."""
    if not (isinstance(about, dict) and "mixture" in about):
        _STUDENT(about, "")
        _check_model(about, tensors)
        return
    _MIXTURE(about, "")
    for half in HALVES:
        try:
            _check_model(about[half], of_half(tensors, half))
        except FileFormatError as error:
            raise FileFormatError(f"of the {half}: {error}") from None
    for name in tensors:
        if not name.startswith(tuple(f"{half}." for half in HALVES)):
            raise FileFormatError(f"the tensor {name!r} is of neither half of the mixture")


def of_half(tensors: Mapping[str, Tensor], half: str) -> dict[str, Tensor]:
    """The tensors of one half of a mixture, by their names there."""
    return {name.removeprefix(f"{half}."): value for name, value in tensors.items() if name.startswith(f"{half}.")}


def _check_model(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Aliases and layers, against the tensors."""
    for alias, key in about["aliases"].items():
        if key not in tensors or alias in tensors:
            raise FileFormatError(f"aliases[{alias!r}] must be another name of a tensor, and none is called {key!r}")
    paths = set()
    for i, entry in enumerate(about.get("layers", ())):
        if entry["path"] in paths:
            raise FileFormatError(f"layers[{i}].path must be of one layer, and {entry['path']!r} is there twice")
        paths.add(entry["path"])
        prefix = f"{entry['path']}." if entry["path"] else ""
        own = {
            name: tensors[about["aliases"].get(prefix + name, prefix + name)]
            for name in ("sigma", "gamma", "num_batches_tracked")
            if prefix + name in tensors or prefix + name in about["aliases"]
        }
        _check_layer(own, entry, f"layers[{i}]", prefix)


def apart(model: nn.Module) -> tuple[nn.Module, float | None]:
    """`model` without noise on its input, and the σ of that noise, whatever `torch.compile` stands around it."""
    model = unwrap_compiled(model)
    if isinstance(model, InputNoise):
        return unwrap_compiled(model.model), model.sigma
    if isinstance(model, Normalized) and isinstance(model.model, InputNoise):
        inside = model.model
        return Normalized(inside.model, model.mean.tolist(), model.std.tolist()), inside.sigma
    return model, None


def normalizations(model: nn.Module) -> dict[str, dict[str, Any]]:
    """mean and std of every `normalized` in `model`, by its path, whatever `torch.compile` stands around them."""
    return {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): {
            "mean": module.mean.tolist(),
            "std": module.std.tolist(),
        }
        for name, module in unwrap_compiled(model).named_modules()
        if isinstance(module, Normalized)
    }


def same_figures(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether two entries of `normalizations` are one, as far as half precision tells them apart."""
    if a is None or b is None:
        return a is b
    pairs = [(_list(a[name]), _list(b[name])) for name in ("mean", "std")]
    return all(
        len(one) == len(other)
        and all(math.isclose(x, y, rel_tol=4e-3, abs_tol=1e-6) for x, y in zip(one, other, strict=True))
        for one, other in pairs
    )


def _list(figures: float | list[float]) -> list[float]:
    return figures if isinstance(figures, list) else [figures]


def _figures(low: float) -> schema.Spec:
    """A number, or one for each channel."""
    one = schema.number(low)
    each = schema.items(one)

    def check(value: Any, field: str) -> None:
        (each if isinstance(value, list) else one)(value, field)

    return check


def _sigma(value: Any, field: str) -> None:
    schema.number(0)(value, field)
    if not value:
        schema.refuse(field, "above 0", value)


def _weight(value: Any, field: str) -> None:
    schema.number(0.5, 1)(value, field)
    if value == 1:
        schema.refuse(field, "below 1", value)


_MODEL = {"class": schema.text, "aliases": schema.mapping(schema.text)}
_CONVERSION = {
    "layer": schema.text,
    "example": schema.optional(described.check),
    "layers": schema.items(
        schema.record(
            {
                "path": schema.text,
                "site": schema.text,
                "kind": schema.choice(get_args(Kind)),
                "activation": schema.text,
                "channels": schema.whole(1),
                "class": schema.text,
                "alpha": schema.number(0, 1),
                "gamma": schema.number(0),
            }
        )
    ),
}
_AROUND = {
    # Of version 2; an earlier file says nothing of it.
    "normalization": schema.mapping(schema.record({"mean": _figures(-math.inf), "std": _figures(0)})),
    "input_noise": _sigma,  # of version 3
}
_STUDENT = schema.record(_MODEL | _CONVERSION, _AROUND)

# Of version 4.
_PREDICTOR = schema.record({"class": schema.choice(("Averaged", "Voting")), "samples": schema.whole(1, 2**16)})


def _half(value: Any, field: str) -> None:
    """A student, or a model that was not converted."""
    converted = _CONVERSION if isinstance(value, dict) and "layers" in value else {}
    schema.record(_MODEL | converted, _AROUND | {"predictor": _PREDICTOR})(value, field)


_MIXTURE = schema.record(
    {
        "mixture": schema.record(
            {"weight": _weight, "scale": schema.number(*SCALES), "temperature": schema.number(*SCALES)}
        ),
        **dict.fromkeys(HALVES, _half),
    },
    {"input_noise": _sigma},
)


def _check_layer(own: Mapping[str, Tensor], entry: Mapping[str, Any], field: str, prefix: str) -> None:
    """σ, γ and the count of one layer, against what is said of it."""
    if (sigma := own.get("sigma")) is not None:
        if not sigma.is_floating_point() or tuple(sigma.shape) != (entry["channels"],):
            raise FileFormatError(
                f"{prefix}sigma must be {entry['channels']} floating-point numbers, as {field}.channels says, not "
                f"{sigma.dtype} of shape {tuple(sigma.shape)}"
            )
        # A sigma that a loss trains may have any sign: the noise has both.
        low = -math.inf if entry["class"] == "StocL2P" else 0.0
        if not (sigma.isfinite() & (sigma >= low)).all():
            raise FileFormatError(f"{prefix}sigma must be finite" + ("" if low else " and at least 0"))
    if (gamma := own.get("gamma")) is not None and (
        not gamma.is_floating_point() or gamma.dim() or gamma.item() != entry["gamma"]
    ):
        raise FileFormatError(f"{prefix}gamma must be one number, {entry['gamma']}, as {field}.gamma says")
    if (count := own.get("num_batches_tracked")) is not None and (
        count.dtype != torch.int64 or count.dim() or count.item() < 0
    ):
        raise FileFormatError(f"{prefix}num_batches_tracked must be one int64 of at least 0")
