"""stocnoise: turn any PyTorch model into a stochastic one that withstands adversarial attacks (ANIS²)."""

from stocnoise import functional
from stocnoise.attacks import BIM, MIM, PGD, normalized
from stocnoise.controls import calibrate, deterministic, fixed_noise, freeze_sigma, set_gamma, stochastic_layers
from stocnoise.conversion import Site, Summary, convert, find_sites, register_activation, revert, summary
from stocnoise.errors import (
    AlreadyConvertedError,
    CheckpointError,
    ConversionError,
    ExampleInputError,
    FileFormatError,
    NonFiniteError,
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
from stocnoise.noises import StocFixed, StocL2P
from stocnoise.training import (
    Callback,
    GammaSchedule,
    History,
    Learn2Perturb,
    Step,
    Trades,
    finetune,
    parameter_groups,
)

__version__ = "0.1.0"

__all__ = [
    "BIM",
    "MIM",
    "PGD",
    "AlreadyConvertedError",
    "Callback",
    "CheckpointError",
    "ConversionError",
    "ExampleInputError",
    "FileFormatError",
    "GammaSchedule",
    "History",
    "Learn2Perturb",
    "NonFiniteError",
    "NothingConvertedError",
    "ScriptedModelError",
    "Site",
    "Step",
    "StocEMA",
    "StocFixed",
    "StocGELUEMA",
    "StocGELUTanhEMA",
    "StocHardswishEMA",
    "StocL2P",
    "StocLeakyReLUEMA",
    "StocReLU6EMA",
    "StocReLUEMA",
    "StocSiLUEMA",
    "StochasticActivation",
    "StocnoiseError",
    "Summary",
    "Trades",
    "UncalibratedWarning",
    "UnsupportedActivationError",
    "WrappedModelError",
    "calibrate",
    "convert",
    "deterministic",
    "find_sites",
    "finetune",
    "fixed_noise",
    "freeze_sigma",
    "functional",
    "load",
    "normalized",
    "parameter_groups",
    "register_activation",
    "revert",
    "save",
    "set_gamma",
    "stochastic_layers",
    "summary",
]
