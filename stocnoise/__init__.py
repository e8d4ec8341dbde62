"""stocnoise: turn any PyTorch model into a stochastic one that withstands adversarial attacks (ANIS²)."""

from stocnoise import functional
from stocnoise.attacks import BIM, MIM, PGD, normalized
from stocnoise.controls import calibrate, deterministic, fixed_noise, freeze_sigma, set_gamma, stochastic_layers
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
    "BIM",
    "MIM",
    "PGD",
    "AlreadyConvertedError",
    "ConversionError",
    "ExampleInputError",
    "FileFormatError",
    "NothingConvertedError",
    "ScriptedModelError",
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
    "UncalibratedWarning",
    "UnsupportedActivationError",
    "WrappedModelError",
    "calibrate",
    "deterministic",
    "fixed_noise",
    "freeze_sigma",
    "functional",
    "normalized",
    "set_gamma",
    "stochastic_layers",
]
