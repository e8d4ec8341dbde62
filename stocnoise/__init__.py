"""stocnoise: turn any PyTorch model into a stochastic one that withstands adversarial attacks (ANIS²)."""

from stocnoise import functional
from stocnoise.controls import calibrate, deterministic, fixed_noise, freeze_sigma, set_gamma, stochastic_layers
from stocnoise.conversion import Site, Summary, convert, find_sites, register_activation, revert, summary
from stocnoise.errors import (
    AlreadyConvertedError,
    ConversionError,
    ExampleInputError,
    FileFormatError,
    NothingConvertedError,
    ScriptedModelError,
    StocnoiseError,
    UncalibratedWarning,
    UnsupportedActivationError,
    WrappedModelError,
)
from stocnoise.files import load, save
from stocnoise.layers import (
    StocEMA,
    StocGELUEMA,
    StocGELUTanhEMA,
    StocHardswishEMA,
    StochasticActivation,
    StocLeakyReLUEMA,
    StocReLU6EMA,
    StocReLUEMA,
    StocSiLUEMA,
)

__version__ = "0.1.0"

__all__ = [
    "AlreadyConvertedError",
    "ConversionError",
    "ExampleInputError",
    "FileFormatError",
    "NothingConvertedError",
    "ScriptedModelError",
    "Site",
    "StocEMA",
    "StocGELUEMA",
    "StocGELUTanhEMA",
    "StocHardswishEMA",
    "StocLeakyReLUEMA",
    "StocReLU6EMA",
    "StocReLUEMA",
    "StocSiLUEMA",
    "StochasticActivation",
    "StocnoiseError",
    "Summary",
    "UncalibratedWarning",
    "UnsupportedActivationError",
    "WrappedModelError",
    "calibrate",
    "convert",
    "deterministic",
    "find_sites",
    "fixed_noise",
    "freeze_sigma",
    "functional",
    "load",
    "register_activation",
    "revert",
    "save",
    "set_gamma",
    "stochastic_layers",
    "summary",
]
