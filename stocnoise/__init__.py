"""stocnoise: turn any PyTorch model into a stochastic one that withstands adversarial attacks (ANIS²)."""

from pathlib import Path as _Path

if not (_Path(__file__).parent / "kernels").is_dir():
    # A checkout, installed or not: `kernels/` stands beside the package, and is found here before any other copy.
    __path__.append(str(_Path(__file__).parents[1]))

from stocnoise import functional
from stocnoise.attacks import (
    APGD,
    BIM,
    CW,
    MIM,
    PGD,
    Attack,
    AutoAttack,
    Boundary,
    HopSkipJump,
    RandomNoise,
    Transfer,
    normalized,
)
from stocnoise.controls import calibrate, deterministic, fixed_noise, freeze_sigma, set_gamma, stochastic_layers
from stocnoise.conversion import (
    Site,
    Summary,
    convert,
    find_sites,
    register_activation,
    register_gate,
    revert,
    summary,
)
from stocnoise.errors import (
    AlreadyConvertedError,
    CheckpointError,
    ConversionError,
    ExampleInputError,
    FileFormatError,
    NonFiniteError,
    NothingConvertedError,
    QuantizedModelError,
    ScriptedModelError,
    StocnoiseError,
    UncalibratedWarning,
    UnsupportedActivationError,
    WrappedModelError,
)
from stocnoise.evaluation import Report, evaluate, plot_asr
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
from stocnoise.prediction import Prediction, predict
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
    "APGD",
    "BIM",
    "CW",
    "MIM",
    "PGD",
    "AlreadyConvertedError",
    "Attack",
    "AutoAttack",
    "Boundary",
    "Callback",
    "CheckpointError",
    "ConversionError",
    "ExampleInputError",
    "FileFormatError",
    "GammaSchedule",
    "History",
    "HopSkipJump",
    "Learn2Perturb",
    "NonFiniteError",
    "NothingConvertedError",
    "Prediction",
    "QuantizedModelError",
    "RandomNoise",
    "Report",
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
    "Transfer",
    "UncalibratedWarning",
    "UnsupportedActivationError",
    "WrappedModelError",
    "calibrate",
    "convert",
    "deterministic",
    "evaluate",
    "find_sites",
    "finetune",
    "fixed_noise",
    "freeze_sigma",
    "functional",
    "load",
    "normalized",
    "parameter_groups",
    "plot_asr",
    "predict",
    "register_activation",
    "register_gate",
    "revert",
    "save",
    "set_gamma",
    "stochastic_layers",
    "summary",
]
