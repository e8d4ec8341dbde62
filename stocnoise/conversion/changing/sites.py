"""What a conversion will do, and what it did: the sites, the layers that go there, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from stocnoise.activations import Activation
from stocnoise.conversion.changing.edits import MethodEdit
from stocnoise.conversion.example import Example, describe
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation
from stocnoise.normalization import Normalized

Kind = Literal["module", "shared", "functional"]


@dataclass(frozen=True)
class Site:
    """A place where a model applies an activation.

    `name`: the path of the activation module; for a functional call the path of the module whose method makes it, and
    the function's name. `kind`: "module", called once, and replaced under its own name, or entered through a layer if
    it is a registered activation with weights; "shared", one of several calls of one module; "functional", a call of a
    function. `activation`: its name. `channels`: C, the length of σ. `channel_dim`: where C is in the input's shape.
    `index`: counts the sites that share a name, in the order of calls. `reason`: why it is an activation, if that was
    told from its values.
    """

    name: str
    kind: Kind
    activation: str
    channels: int
    channel_dim: int
    index: int
    reason: str = ""


@dataclass(frozen=True)
class LeftAlone:
    """Something that looks like an activation and keeps as it was, with the reason."""

    name: str
    activation: str
    reason: str


@dataclass
class Placement:
    """A stochastic layer to be made, and where it goes."""

    site: Site
    path: str
    activation: Activation | None
    """None: noise alone, before the function or module that stays."""
    inplace: bool
    donated: bool
    device: torch.device
    like: str
    """The path of the module that it takes its mode from, and its hooks if that is the activation."""
    calls: tuple[int, ...]
    """How often it is called in each run."""


@dataclass
class Plan:
    """Everything that a conversion will do."""

    placements: list[Placement] = field(default_factory=list)
    methods: dict[str, tuple[MethodEdit, ...]] = field(default_factory=dict)
    """The edits of each owner, by its path."""
    entries: dict[str, str] = field(default_factory=dict)
    """The attribute of each module that is entered through a layer, by the module's path."""
    views: list[str] = field(default_factory=list)
    """Where a view must stand in place of a module that stands elsewhere too."""
    left: list[LeftAlone] = field(default_factory=list)


@dataclass(frozen=True)
class Conversion:
    """What was done to a model; a student keeps it for `summary`, `save` and `revert`."""

    layers: tuple[tuple[str, Site], ...]
    """The path of each stochastic layer, and its site."""
    left: tuple[LeftAlone, ...]
    layer: str
    """The class of the layers that stand at ReLU sites."""
    example: Any
    """The example inputs as JSON (`example.describe`)."""
    arguments: tuple[int, tuple[str, ...], bool] = (1, (), True)
    """How the model is called: the number of positional arguments, the keywords, and whether the first is a tensor."""

    @staticmethod
    def of(plan: Plan, layer: type[StochasticActivation], examples: Sequence[Example]) -> Conversion:
        layers = tuple((placement.path, placement.site) for placement in plan.placements)
        return Conversion(layers, tuple(plan.left), layer.__name__, describe(examples), examples[0].arguments())

    def within(self, prefix: str) -> Conversion:
        """The same, seen from a module that holds the student under `prefix`: "" or a path with its last dot."""

        def seen(path: str) -> str:
            return (prefix + path).removesuffix(".")

        return replace(
            self,
            layers=tuple((seen(path), replace(site, name=seen(site.name))) for path, site in self.layers),
            left=tuple(replace(item, name=seen(item.name)) for item in self.left),
        )


def student_in(model: nn.Module) -> tuple[str, nn.Module] | None:
    """What `convert` made in `model`, after its prefix, under `torch.compile`, `normalized`, input noise; or None."""
    prefix, inner = "", unwrap_compiled(model)
    while getattr(inner, "_stocnoise_conversion", None) is None:
        if not isinstance(inner, Normalized | InputNoise):
            return None
        prefix, inner = f"{prefix}model.", unwrap_compiled(inner.model)
    return prefix, inner


def conversion_of(model: nn.Module) -> Conversion:
    """What `convert` noted on a student, seen from `model`; ValueError for any other model."""
    found = student_in(model)
    if found is None:
        raise ValueError("this model is not a student made by stocnoise.convert")
    prefix, student = found
    conversion: Conversion = student._stocnoise_conversion  # type: ignore[assignment]
    return conversion.within(prefix)
