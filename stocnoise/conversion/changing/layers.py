"""The stochastic layers of a plan: made, and put into their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from stocnoise.activations import Activation
from stocnoise.conversion.changing.fastpath import disable_fast_paths
from stocnoise.conversion.changing.holders import Exchange
from stocnoise.conversion.changing.sites import Plan
from stocnoise.conversion.changing.views import put_views
from stocnoise.layers import Notice, StochasticActivation


def make_layers(
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
            donated=placement.donated,
            device=placement.device,
        )
        new.train(like.training)
        new.notice = notice
        made[placement.path] = new, replaces
    return made


def put_in_place(
    model: nn.Module,
    views: Iterable[str],
    made: Mapping[str, tuple[StochasticActivation, bool]],
    classes: Mapping[str, type[nn.Module]],
) -> nn.Module:
    """Put the layers into their places. Nothing here can fail."""
    put_views(model, views)
    owners = {path: model.get_submodule(path) for path in classes}
    stands: dict[nn.Module, list[nn.Module]] = {}
    for path, (layer, replaces) in made.items():
        parent, _, name = path.rpartition(".")
        if replaces:
            old = model.get_submodule(path)
            layer.replaced = (old,)
            if isinstance(layer.activation, nn.Module):
                layer.activation = old
            else:
                _take_hooks(layer, old, first=old not in stands)
            _take_attributes(layer, old)
            stands.setdefault(old, []).append(layer)
            if not path:
                return layer
        model.get_submodule(parent)._modules[name] = layer
    before = {owner: type(owner) for owner in owners.values()}
    for path, owner in owners.items():
        owner.__class__ = classes[path]
    Exchange({old: layers[0] for old, layers in stands.items() if len(layers) == 1}, before).everywhere(model)
    disable_fast_paths(model)
    return model


def _take_attributes(layer: nn.Module, old: nn.Module) -> None:
    """What a model may ask its activation module for, as far as the layer has nothing else under that name."""
    for name, value in vars(old).items():
        if not hasattr(layer, name):
            vars(layer)[name] = value


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
