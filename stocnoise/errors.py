"""What can go wrong, one class for each reason a user can act on."""

from __future__ import annotations


class StocnoiseError(Exception):
    """Base of every error that stocnoise raises on purpose."""


class ConversionError(StocnoiseError, ValueError):
    """A model could not be converted. Nothing has been changed when this is raised."""


class NothingConvertedError(ConversionError):
    """The model calls no convertible activation, or the filters left none."""


class UnsupportedActivationError(ConversionError):
    """An activation is called at a place where noise cannot be added, and it was not excluded."""


class WrappedModelError(ConversionError):
    """The model is wrapped (DDP, FSDP, DataParallel): convert first, wrap afterwards."""


class ScriptedModelError(ConversionError):
    """The model, or a part of it, is a ScriptModule, whose forward cannot be rewritten; or a student is scripted."""


class QuantizedModelError(ConversionError):
    """The model, or a part of it, is quantised: its activations are integers."""


class AlreadyConvertedError(ConversionError):
    """The model is a student already."""


class ExampleInputError(ConversionError):
    """The model did not run on the example input."""


class FileFormatError(StocnoiseError, ValueError):
    """A file is truncated, altered, of a newer version, or not one of ours."""


class CheckpointError(StocnoiseError, RuntimeError):
    """A checkpoint could not be written or read, or is not of this run. Good ones are left as they are."""


class NonFiniteError(StocnoiseError, ArithmeticError):
    """Training produced NaN or infinity. The weights are those from before the step that did."""


class UncalibratedWarning(UserWarning):
    """A student that has seen no batch (sigma = 0) is used in eval mode: it is still deterministic."""


class NormalizationWarning(UserWarning):
    """A model made for normalised images is given pixels in [0, 1] as they are."""


class KernelsWarning(UserWarning):
    """Triton is installed, but the kernels cannot be used: the slow way is taken instead."""
