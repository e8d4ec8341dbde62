"""Views put into their places, for good, and taken out again."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from stocnoise.conversion.finding.places import slots, view

_ORIGINAL = "_stocnoise_view_of"


def put_views(model: nn.Module, paths: Iterable[str]) -> None:
    """Put a view of the module at each of `paths` in its place. Outer paths come before inner ones."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        held = model.get_submodule(parent)._modules
        original = held[name]
        assert original is not None
        held[name] = made = view(original)
        vars(made)[_ORIGINAL] = (original,)  # in a tuple: not a submodule


def remove_views(model: nn.Module) -> None:
    """The modules themselves back into every place where a view of them stands."""
    for _, parent, name, child in slots(model):
        if (held := vars(child).get(_ORIGINAL)) is not None:
            parent._modules[name] = held[0]
