"""Settings that differ from site to site: ordered rules, of which the first that matches a site counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from stocnoise.conversion.changing.sites import Placement
from stocnoise.conversion.filters import FilterLike, make_filter
from stocnoise.errors import ConversionError
from stocnoise.layers import StochasticActivation

Rule = tuple[FilterLike, Mapping[str, Any]]

_KEYS = ("layer", "alpha", "gamma")


def settings(
    model: nn.Module, placements: Iterable[Placement], rules: Iterable[Rule], default: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """`layer`, `alpha` and `gamma` of each placement, by its path: `default`, and over it the first rule that matches.

    A rule is asked about the site's name and about the path of its layer, with the module that filters are asked about.

    Raises:
        TypeError: something is not a rule, or sets what no layer has.
        ConversionError: a rule matches no site.
    """
    pairs = [_checked(number, rule) for number, rule in enumerate(rules)]
    unused = dict(enumerate(pairs))
    chosen: dict[str, Mapping[str, Any]] = {}
    for placement in placements:
        module = model.get_submodule(placement.like)
        matching = [
            number
            for number, (applies, _) in enumerate(pairs)
            if applies(placement.site.name, module) or applies(placement.path, module)
        ]
        for number in matching:
            unused.pop(number, None)
        chosen[placement.path] = {**default, **pairs[matching[0]][1]} if matching else default
    if unused:
        raise ConversionError(f"rules[{min(unused)}] matches no site; stocnoise.find_sites lists their names")
    return chosen


def check_layer(name: str, layer: Any) -> None:
    """TypeError unless `layer` is a class of stochastic layers."""
    if not (isinstance(layer, type) and issubclass(layer, StochasticActivation)):
        raise TypeError(
            f"{name} must be a subclass of StochasticActivation, such as stocnoise.StocReLUEMA (the class, not a layer "
            f"made of it), not {layer!r}"
        )


def _checked(number: int, rule: Rule) -> tuple[Any, Mapping[str, Any]]:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[1], Mapping)):
        raise TypeError(f"rules[{number}] must be a pair of a filter and a dict of settings, not {rule!r}")
    unknown = [key for key in rule[1] if key not in _KEYS]
    if unknown:
        raise TypeError(f"rules[{number}] sets {unknown[0]!r}; a rule can set {', '.join(_KEYS)}")
    check_layer(f"rules[{number}]: layer", rule[1].get("layer", StochasticActivation))
    applies = make_filter(rule[0], f"rules[{number}]")
    if applies is None:
        raise TypeError(f"rules[{number}] has no filter: use '*' for every site")
    return applies, rule[1]
