"""`convert`, `find_sites` and `revert`: the public side of the conversion."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from stocnoise.activations import Activation
from stocnoise.controls import deterministic
from stocnoise.conversion.example import Example
from stocnoise.conversion.fastpath import disable_fast_paths, restore_fast_paths
from stocnoise.conversion.filters import FilterLike, make_filter
from stocnoise.conversion.plan import LeftAlone, Plan, Site, make_plan
from stocnoise.conversion.probe import random_state_kept
from stocnoise.conversion.refuse import refuse, unwrap_compiled
from stocnoise.conversion.rewrite import Rewritten, rewritten_from, subclass
from stocnoise.conversion.rules import Rule, settings
from stocnoise.conversion.survey import audit, survey
from stocnoise.conversion.views import put_views, remove_views, slots
from stocnoise.errors import ConversionError, NothingConvertedError
from stocnoise.layers import Notice, StochasticActivation, StocReLUEMA


@dataclass(frozen=True)
class Conversion:
    """What was done to a model; a student keeps it for `summary`, `save` and `revert`."""

    layers: tuple[tuple[str, Site], ...]
    """The path of each stochastic layer, and its site."""
    left: tuple[LeftAlone, ...]
    layer: str
    """The class of the layers that stand at ReLU sites."""
    example: Any
    """The example input as JSON (`Example.describe`)."""


def convert(
    model: nn.Module,
    example_input: Any = None,
    *,
    include: FilterLike | None = None,
    exclude: FilterLike | None = None,
    layer: type[StochasticActivation] = StocReLUEMA,
    alpha: float = 0.5,
    gamma: float = 0.01,
    rules: Iterable[Rule] = (),
    inplace: bool = False,
    check: bool = False,
) -> nn.Module:
    """A stochastic student of `model`: a layer with its own σ at every call site of every activation.

    Weights, keys of the state, hooks, dtype, device, `requires_grad` and each module's mode stay. An activation module
    with one call is replaced under its own name. A module that calls an activation several times, or as a function,
    gets a subclass of its class in which these calls are rewritten, and its new layers as submodules. A block that
    stands in several places, such as under two names, gets layers in each: one object for each place, all with the same
    parameters and buffers. What is set on it or exchanged inside it afterwards (an attribute, LoRA, a parametrisation)
    changes in one place only, so do that first. A block called several times under one name has one set of layers.
    σ = 0 until the student has seen a batch (`calibrate`, or training).

    Args:
        model: any `nn.Module`; one wrapped by `torch.compile` is unwrapped, compile the student again.
        example_input: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
            Only shapes and dtypes matter: nothing is computed, but the forward runs, hooks included. Default: the input
            size in `model.pretrained_cfg`, or (3, 224, 224). A batch of one is taken twice, for BatchNorm.
        include: convert only these sites: name globs, types of modules, or a predicate (name, module) -> bool.
        exclude: leave these sites alone; as `include`.
        layer: the noise, as the layer that stands at ReLU sites; other activations get its like.
        alpha: weight of the newest batch in σ.
        gamma: variance of the noise in units of σ².
        rules: settings of single sites, as pairs of a filter (as `include`; a glob may also name a layer, as `summary`
            prints it) and a dict with any of `layer`, `alpha`, `gamma`. The first rule that matches a site counts:
            `rules=[("layer4.*", {"gamma": 0.0}), (nn.GELU, {"gamma": 0.05, "alpha": 0.1})]`.
        inplace: change `model` itself rather than a copy.
        check: run both models once on random input, the noise off: the outputs must be equal bit for bit.

    Returns:
        the student; `model` itself with `inplace`.

    Raises:
        ConversionError: one of its subclasses says why; the model is then unchanged.
    """
    model = unwrap_compiled(model)
    example = example_input if isinstance(example_input, Example) else Example(model, example_input)
    plan = _plan(model, example, include, exclude)
    if not plan.placements:
        raise NothingConvertedError(_nothing(plan))
    if plan.placements[0].path == "" and inplace:
        raise ConversionError("the model is itself an activation, which cannot be replaced in place: use inplace=False")
    # All that can fail comes before the first change: making the layers, and rewriting the methods.
    chosen = settings(model, plan.placements, rules, {"layer": layer, "alpha": alpha, "gamma": gamma})
    made = _make_layers(model, plan, chosen)
    changes: dict[str, dict[str, Any]] = {path: {"methods": methods} for path, methods in plan.methods.items()}
    changes |= {path: {"entry": layer} for path, layer in plan.entries.items()}
    classes = {path: subclass(Rewritten(type(model.get_submodule(path)), **how)) for path, how in changes.items()}
    student = _apply(model if inplace else _copy(model), plan.views, made, classes)
    student._stocnoise_conversion = Conversion(  # type: ignore[assignment]
        tuple((placement.path, placement.site) for placement in plan.placements),
        tuple(plan.left),
        layer.__name__,
        example.describe(),
    )
    try:
        audit(student, example, plan)
        if check:
            _compare(student, example)
    except BaseException:
        if inplace:
            revert(student, inplace=True)
        raise
    return student


def find_sites(
    model: nn.Module,
    example_input: Any = None,
    *,
    include: FilterLike | None = None,
    exclude: FilterLike | None = None,
) -> list[Site]:
    """The sites that `convert` with the same arguments would convert, in the order of their first call."""
    model = unwrap_compiled(model)
    return [placement.site for placement in _plan(model, Example(model, example_input), include, exclude).placements]


def revert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The deterministic model back, weights kept: a copy of the student, or the student itself with `inplace`."""
    conversion_of(model)
    model = unwrap_compiled(model)
    if not inplace:
        model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if rewritten_from(module) is None and any("_stocnoise_rewritten" in vars(cls) for cls in type(module).__mro__):
            raise ConversionError(
                f"{name or 'the model'} has been made a {type(module).__name__} since its conversion: undo that first, "
                "for example with torch.nn.utils.parametrize.remove_parametrizations"
            )
    remove_views(model)
    for module in list(model.modules()):
        if (made := rewritten_from(module)) is not None:
            for name in made.layers():
                del module._modules[name]
            module.__class__ = made.cls
    if isinstance(model, StochasticActivation):
        model = model.replaced[0]
    for _, parent, name, child in list(slots(model)):
        if isinstance(child, StochasticActivation):
            parent._modules[name] = child.replaced[0].train(child.training)
    restore_fast_paths(model)
    vars(model).pop("_stocnoise_conversion", None)
    return model


def conversion_of(model: nn.Module) -> Conversion:
    """What `convert` noted on a student; ValueError for any other model."""
    found = getattr(unwrap_compiled(model), "_stocnoise_conversion", None)
    if found is None:
        raise ValueError("this model is not a student made by stocnoise.convert")
    return found


def _plan(model: nn.Module, example: Example, include: FilterLike | None, exclude: FilterLike | None) -> Plan:
    refuse(model)
    filters = make_filter(include, "include"), make_filter(exclude, "exclude")
    found = survey(model, example)
    return make_plan(found.views, (found.train, found.eval), *filters)


def _nothing(plan: Plan) -> str:
    message = "this model calls no activation that could be converted"
    if not plan.left:
        return message + ": pass an example_input with which its activations are reached"
    return message + "".join(f"\n  {item.name or '(root)'}: {item.activation}, {item.reason}" for item in plan.left)


def _make_layers(
    model: nn.Module, plan: Plan, chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[StochasticActivation, bool]]:
    """The new layers by path, each with whether it replaces the module there."""
    notice = Notice()
    made: dict[str, tuple[StochasticActivation, bool]] = {}
    for placement in plan.placements:
        like = model.get_submodule(placement.like)
        replaces = placement.path == placement.like
        activation: Activation | nn.Module = placement.activation or (like if replaces else Activation("identity"))
        own = chosen[placement.path]
        new = own["layer"].for_activation(activation)(
            placement.site.channels,
            activation=activation,
            alpha=own["alpha"],
            gamma=own["gamma"],
            channel_dim=placement.site.channel_dim,
            inplace=placement.inplace,
            device=placement.device,
        )
        new.train(like.training)
        new.notice = notice
        made[placement.path] = new, replaces
    return made


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            f"the model cannot be copied ({type(error).__name__}: {error}): use inplace=True to convert it as it is"
        ) from error


def _apply(
    model: nn.Module,
    views: Iterable[str],
    layers: Mapping[str, tuple[StochasticActivation, bool]],
    classes: Mapping[str, type[nn.Module]],
) -> nn.Module:
    """Put the layers into their places. Nothing here can fail."""
    put_views(model, views)
    owners = {path: model.get_submodule(path) for path in classes}
    hooked: set[nn.Module] = set()
    for path, (layer, replaces) in layers.items():
        parent, _, name = path.rpartition(".")
        if replaces:
            old = model.get_submodule(path)
            layer.replaced = (old,)
            if isinstance(layer.activation, nn.Module):
                layer.activation = old
            else:
                _take_hooks(layer, old, first=old not in hooked)
                hooked.add(old)
            if not path:
                return layer
        model.get_submodule(parent)._modules[name] = layer
    for path, owner in owners.items():
        owner.__class__ = classes[path]
    disable_fast_paths(model)
    return model


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def _take_hooks(layer: nn.Module, old: nn.Module, first: bool) -> None:
    """The very dictionaries, so that the handles that users hold still remove their hooks.

    Of the layers that stand for one object in several places, those after the first share only what is hooked already.
    """
    for name in _HOOKS:
        if first or vars(old)[name]:
            vars(layer)[name] = vars(old)[name]


def _compare(student: nn.Module, example: Example) -> None:
    """Run teacher and student, its noise off, on random input: they must agree bit for bit.

    Raises:
        ConversionError: they do not.
    """
    teacher = revert(student).eval()
    modes = [(module, module.training) for module in student.modules()]
    with random_state_kept(student):
        given = example.map(lambda t: torch.randn_like(t) if t.is_floating_point() else t)
    outputs = []
    try:
        for model, quiet in ((teacher, nullcontext()), (student.eval(), deterministic(student))):
            args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, given)
            with torch.no_grad(), random_state_kept(model), quiet:
                outputs.append([leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)])
    finally:
        for module, training in modes:
            module.training = training
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True)):
        raise ConversionError("without noise the student does not compute what the model computes; report this")
