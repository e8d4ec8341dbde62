"""Models that cannot be converted as they are, each with what to do about it."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from stocnoise.checks import check_model
from stocnoise.errors import (
    AlreadyConvertedError,
    ConversionError,
    QuantizedModelError,
    ScriptedModelError,
    WrappedModelError,
)
from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation

_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}

# Of torch.ao.nn.quantized, what computes in floating point until a model is quantised.
_FLOAT = {"FloatFunctional", "FXFloatFunctional"}


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile(model)`."""
    check_model("model", model)
    return getattr(model, "_orig_mod", model)


def refuse(model: nn.Module) -> None:
    """Raise the error that fits, if `model` is wrapped, scripted or converted already."""
    for name, module in model.named_modules():
        where = f"its module {name!r}" if name else "this model"
        wrapper = next(
            (cls.__name__ for cls in type(module).__mro__ if _is_torch(cls) and cls.__name__ in _WRAPPERS), None
        )
        if wrapper is not None:
            raise WrappedModelError(
                f"{where} is wrapped in {wrapper}: convert the model first and wrap the student, "
                f"{wrapper}(stocnoise.convert(model))"
            )
        if any(cls.__name__ == "ScriptModule" and _is_torch(cls) for cls in type(module).__mro__):
            raise ScriptedModelError(
                f"{where} is a ScriptModule, whose forward cannot be changed: convert the model before torch.jit.script"
            )
        if isinstance(module, GraphModule) and type(module).train is not GraphModule.train:
            raise ConversionError(
                f"{where}, a {type(module).__mro__[1].__name__}, writes itself new code when its mode changes: convert "
                "the model that it was made from, and make it from the student, with "
                "tracer_kwargs={'leaf_modules': [stocnoise.StochasticActivation]}"
            )
        if any(is_lazy(parameter) for parameter in module._parameters.values()):
            raise ConversionError(f"{where} has lazy parameters: run the model once, so that they get their shapes")
        if _is_quantized(type(module)):
            raise QuantizedModelError(
                f"{where} is quantised ({type(module).__name__}), and integers take no noise: convert the model first, "
                "and quantise what stocnoise.revert gives"
            )
        if isinstance(module, InputNoise):
            raise ConversionError(
                f"{where} has noise on its input, which is put there last: convert what is inside, "
                f"stocnoise.convert(….model, input_noise={module.sigma:g})"
            )
        if isinstance(module, StochasticActivation):
            raise AlreadyConvertedError(
                f"{where} is a stochastic layer: the model is converted already; "
                "take stocnoise.revert(model) to convert it anew"
            )


def _is_torch(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "torch"


def _is_quantized(cls: type) -> bool:
    return cls.__name__ not in _FLOAT and any(_is_torch(b) and ".quantized" in b.__module__ for b in cls.__mro__[:-1])
