"""`convert` and `find_sites`: the steps of a conversion."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from stocnoise.checks import check_number, check_several, check_share
from stocnoise.controls import stochastic_layers
from stocnoise.conversion.changing.disguise import disguise
from stocnoise.conversion.changing.layers import make_layers, put_in_place
from stocnoise.conversion.changing.plan import make_plan
from stocnoise.conversion.changing.sites import Conversion, Plan, Site
from stocnoise.conversion.changing.structure import all_or_nothing
from stocnoise.conversion.changing.subclass import subclasses
from stocnoise.conversion.example import Example
from stocnoise.conversion.filters import FilterLike, make_filter
from stocnoise.conversion.finding.skeleton import not_copyable
from stocnoise.conversion.finding.survey import Survey, survey
from stocnoise.conversion.proof import audit, compare
from stocnoise.conversion.refuse import refuse, unwrap_compiled
from stocnoise.conversion.rules import Rule, check_layer, settings
from stocnoise.errors import ConversionError, NothingConvertedError, UnsupportedActivationError
from stocnoise.input_noise import check_input_noise, with_input_noise
from stocnoise.layers import StochasticActivation, StocReLUEMA


def convert(
    model: nn.Module,
    example_input: Any = None,
    *,
    more_inputs: Iterable[Any] = (),
    include: FilterLike | None = None,
    exclude: FilterLike | None = None,
    layer: type[StochasticActivation] = StocReLUEMA,
    alpha: float = 0.5,
    gamma: float = 0.01,
    rules: Iterable[Rule] = (),
    input_noise: float | None = None,
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

    An activation is a function of torch that is known as one, a module that is one by its values (elementwise, not
    linear, not bounded on both sides), or a product of x and a gate of x; `register_activation` and `register_gate`
    overrule this, and `summary` tells what was decided and why. Functions that are no methods are rewritten for this
    model alone. Before it is returned the student has been run beside the model: it calls the same functions in the
    same order, on the same shapes, with the same numbers.

    Args:
        model: any `nn.Module`; one wrapped by `torch.compile` is unwrapped, compile the student again.
        example_input: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
            Only shapes and dtypes matter: nothing is computed, but the forward runs, hooks included. Default: the input
            size in `model.pretrained_cfg`, or (3, 224, 224). A batch of one is taken twice, for BatchNorm.
        more_inputs: further inputs, each as `example_input`, for a model of which values decide what runs: what any of
            them reaches is found.
        include: convert only these sites: name globs, types of modules, or a predicate (name, module) -> bool.
        exclude: leave these sites alone; as `include`.
        layer: the noise, as the layer that stands at ReLU sites; other activations get its like.
        alpha: weight of the newest batch in σ.
        gamma: variance of the noise in units of σ².
        rules: settings of single sites, as pairs of a filter (as `include`; a glob may also name a layer, as `summary`
            prints it) and a dict with any of `layer`, `alpha`, `gamma`. The first rule that matches a site counts:
            `rules=[("layer4.*", {"gamma": 0.0}), (nn.GELU, {"gamma": 0.05, "alpha": 0.1})]`.
        input_noise: also put noise of this σ, in pixels, before the first layer: the student is then inside
            `with_input_noise`, and can be certified.
        inplace: change `model` itself rather than a copy.
        check: run both models once on random input, the noise off: the outputs must be equal bit for bit.

    Returns:
        the student; `model` itself with `inplace`, unless it is put behind `input_noise`.

    Raises:
        ConversionError: one of its subclasses says why. The model is then unchanged, as after any other exception.

    Example:
        >>> student = stocnoise.convert(model, images, gamma=0.05, rules=[("2", {"alpha": 0.1})])
        >>> [name for name, layer in stocnoise.stochastic_layers(student)]
        ['2']
    """
    if input_noise is not None:
        check_input_noise(input_noise)
    check_layer("layer", layer)
    check_share("alpha", alpha)
    check_number("gamma", gamma)
    check_several("more_inputs", more_inputs, "example inputs")
    check_several("rules", rules, "pairs of a filter and a dict of settings")
    model = unwrap_compiled(model)
    examples = _examples(model, (example_input, *more_inputs))
    found, plan = _plan(model, examples, include, exclude)
    _require_sites(plan, inplace)
    # All that can fail comes before the first change: making the layers, and rewriting the methods.
    chosen = settings(model, plan.placements, rules, {"layer": layer, "alpha": alpha, "gamma": gamma})
    layers = make_layers(model, plan, chosen)
    classes = subclasses(model, plan)
    student = model if inplace else _copy(model)
    with all_or_nothing(student):
        student = put_in_place(student, plan.views, layers, classes)
        student._stocnoise_conversion = Conversion.of(plan, layer, examples)  # type: ignore[assignment]
        _prove(student, examples, plan, found)
        for example in examples if check else ():
            compare(student, example)
    return student if input_noise is None else with_input_noise(student, input_noise)


def find_sites(
    model: nn.Module,
    example_input: Any = None,
    *,
    more_inputs: Iterable[Any] = (),
    include: FilterLike | None = None,
    exclude: FilterLike | None = None,
) -> list[Site]:
    """The sites that `convert` with the same arguments would convert, in the order of their first call.

    Example:
        >>> [(site.name, site.activation, site.channels) for site in stocnoise.find_sites(model, images)]
        [('2', 'relu', 8)]
    """
    check_several("more_inputs", more_inputs, "example inputs")
    model = unwrap_compiled(model)
    _, plan = _plan(model, _examples(model, (example_input, *more_inputs)), include, exclude)
    return [placement.site for placement in plan.placements]


def _examples(model: nn.Module, inputs: Iterable[Any]) -> list[Example]:
    return [given if isinstance(given, Example) else Example(model, given) for given in inputs]


def _plan(
    model: nn.Module, examples: Sequence[Example], include: FilterLike | None, exclude: FilterLike | None
) -> tuple[Survey, Plan]:
    refuse(model)
    filters = make_filter(include, "include"), make_filter(exclude, "exclude")
    found = survey(model, examples)
    return found, make_plan(found.views, [run.record for run in found.runs], *filters)


def _prove(student: nn.Module, examples: Sequence[Example], plan: Plan, found: Survey) -> None:
    """`audit`, and if that fails again with layers that have the class of what they replaced, then also its name."""
    try:
        audit(student, examples, plan, found)
    except UnsupportedActivationError as first:
        for named in (False, True):
            if not disguise((layer for _, layer in stochastic_layers(student)), named=named):
                raise
            try:
                audit(student, examples, plan, found)
            except UnsupportedActivationError:
                continue
            return
        raise first from None


def _require_sites(plan: Plan, inplace: bool) -> None:
    if not plan.placements:
        raise NothingConvertedError(_nothing(plan))
    if plan.placements[0].path == "" and inplace:
        raise ConversionError("the model is itself an activation, which cannot be replaced in place: use inplace=False")


def _nothing(plan: Plan) -> str:
    message = "this model calls no activation that could be converted"
    if not plan.left:
        return message + (
            ": the example_input reaches none. Another one may, but nn.LSTM and nn.GRU compute nothing but gates"
        )
    listing = "".join(f"\n  {item.name or '(root)'}: {item.activation}, {item.reason}" for item in plan.left)
    return f"{message}; what is one can be declared with stocnoise.register_activation{listing}"


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        held = list(not_copyable(model, {}))
        if held and all(isinstance(value, torch.jit.ScriptFunction) for *_, value in held):
            return copy.deepcopy(model, {id(value): value for *_, value in held})  # which nothing can change
        named = [f"{path}.{name}".lstrip(".") for path, name, _ in held]
        raise ConversionError(
            f"the model cannot be copied, because of {', '.join(named) or 'something in it'} "
            f"({type(error).__name__}: {error}): use inplace=True to convert it as it is"
        ) from error
