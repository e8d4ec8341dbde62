"""The way back: from a student to the deterministic model."""

from __future__ import annotations

import copy

from torch import nn

from stocnoise.conversion.changing.fastpath import restore_fast_paths
from stocnoise.conversion.changing.holders import Exchange
from stocnoise.conversion.changing.sites import conversion_of, student_in
from stocnoise.conversion.changing.structure import all_or_nothing
from stocnoise.conversion.changing.subclass import rewritten_from
from stocnoise.conversion.changing.views import remove_views
from stocnoise.conversion.finding.places import slots
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.errors import ConversionError
from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation
from stocnoise.normalization import Normalized


def revert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The deterministic model back, weights kept: a copy of the student, or the student itself with `inplace`.

    What `normalized` has put around a student stays around the model; noise on the input goes.

    Example:
        >>> stocnoise.revert(student)[2]
        ReLU()
    """
    conversion_of(model)
    model = unwrap_compiled(model)
    if not inplace:
        model = copy.deepcopy(model)
    if isinstance(model, InputNoise):
        return revert(model.model, inplace=True)
    if isinstance(model, Normalized) and student_in(model) != ("", model):
        model.model = revert(model.model, inplace=True)
        return model
    for name, module in model.named_modules():
        if rewritten_from(module) is None and any("_stocnoise_rewritten" in vars(cls) for cls in type(module).__mro__):
            raise ConversionError(
                f"{name or 'the model'} has been made a {type(module).__name__} since its conversion: undo that first, "
                "for example with torch.nn.utils.parametrize.remove_parametrizations"
            )
    with all_or_nothing(model):
        return _without_layers(model)


def _without_layers(model: nn.Module) -> nn.Module:
    remove_views(model)
    before: dict[nn.Module, type] = {}
    for module in list(model.modules()):
        if (made := rewritten_from(module)) is not None:
            for name in made.layers():
                del module._modules[name]
            before[module] = type(module)
            module.__class__ = made.cls
    if isinstance(model, StochasticActivation):
        model = model.replaced[0]
    originals: dict[nn.Module, nn.Module] = {}
    for _, parent, name, child in list(slots(model)):
        if isinstance(child, StochasticActivation):
            parent._modules[name] = originals[child] = child.replaced[0].train(child.training)
    Exchange(originals, before).everywhere(model)
    restore_fast_paths(model)
    vars(model).pop("_stocnoise_conversion", None)
    return model
