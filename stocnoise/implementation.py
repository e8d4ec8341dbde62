"""Which implementation serves a tensor: the Triton kernels or ATen, and why."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

from stocnoise import aten
from stocnoise.errors import KernelsWarning

NO_TRITON = "Triton is not installed"


def implementation(x: Tensor) -> ModuleType:
    """Triton on a GPU, and for CPU tensors in the interpreter; ATen otherwise."""
    return aten if _against(x) else _kernels()


def why(x: Tensor) -> str:
    """Why `implementation(x)` is what it is."""
    return _against(x) or load_kernels()[1] or "the kernels serve GPUs, and CPUs in Triton's interpreter"


@functools.cache
def load_kernels() -> tuple[ModuleType | None, str]:
    """The Triton kernels; or None, and why: `NO_TRITON`, or what went wrong where Triton is installed."""
    try:
        return importlib.import_module("stocnoise.kernels"), ""
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return None, NO_TRITON
        return None, f"stocnoise.kernels cannot be imported ({type(error).__name__}: {error})"
    except Exception as error:  # an old Triton lacks names, a broken one fails in ways of its own
        return None, f"stocnoise.kernels cannot be imported ({type(error).__name__}: {error})"


@functools.cache
def _kernels() -> ModuleType:
    """The kernels where they can be had, else ATen; unless Triton is missing, that is said, once."""
    kernels, reason = load_kernels()
    if kernels is not None:
        return kernels
    if reason != NO_TRITON:
        warnings.warn(
            f"{reason}, so every stochastic activation runs through ATen, several times slower than with the kernels, "
            "and with other noise; `stocnoise doctor` tells more",
            KernelsWarning,
            stacklevel=2,
        )
    return aten


def _against(x: Tensor) -> str:
    """Why the kernels are not for x, if they are not."""
    if not (x.is_cuda or (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")):
        return "the kernels are for GPUs, and for CPUs in Triton's interpreter"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return "the kernels know float32, float16 and bfloat16"
    return ""
