"""What this machine has, which implementation serves which device, and whether each computes what it should."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

import stocnoise
from stocnoise import functional
from stocnoise.implementation import NO_TRITON, implementation, load_kernels, why

_LIBRARIES = ("torch", "triton", "torchvision", "timm", "safetensors", "accelerate", "numpy")

# Of y, of x's gradient and of σ: the rounding of the type, with room for approximations of GELU.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Served:
    """What serves tensors of one device and dtype, why, and what is wrong with it."""

    device: str
    dtype: str
    implementation: str
    """"kernels" or "aten"."""
    reason: str
    fault: str
    """Empty if one operation, its derivative, its statistics and an update of σ equal those in float64."""


@dataclass(frozen=True)
class Diagnosis:
    """`faults` is empty if all is well."""

    versions: dict[str, str]
    kernels: str
    served: tuple[Served, ...]
    faults: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look at everything: takes some seconds where kernels must be compiled."""
    kernels, reason = load_kernels()
    found = tuple(_served(device, dtype) for device in _devices() for dtype in _TOLERANCE)
    faults = [f"{one.device}, {one.dtype}: {one.fault}" for one in found if one.fault]
    if kernels is None and reason != NO_TRITON:
        faults.insert(0, reason)
    return Diagnosis(
        versions={
            "stocnoise": f"{stocnoise.__version__} in {Path(stocnoise.__file__).parent}",
            "Python": f"{platform.python_version()} on {platform.platform()}",
            **{name: _version(name) for name in _LIBRARIES},
        },
        kernels=f"in {kernels.__path__[-1] if kernels.__path__ else '?'}" if kernels else f"none: {reason}",
        served=found,
        faults=tuple(faults),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> Iterator[torch.device]:
    yield torch.device("cpu")
    for name in ("cuda", "xpu"):
        module = getattr(torch, name)
        if module.is_available():
            yield from (torch.device(name, index) for index in range(module.device_count()))
    if torch.backends.mps.is_available():
        yield torch.device("mps")


def _served(device: torch.device, dtype: torch.dtype) -> Served:
    x = torch.empty(0, device=device, dtype=dtype)
    chosen = "aten" if implementation(x).__name__.endswith("aten") else "kernels"
    return Served(_name(device), str(dtype).removeprefix("torch."), chosen, why(x), fault(device, dtype))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def fault(device: torch.device, dtype: torch.dtype) -> str:
    """What differs from float64 in one training pass of a GELU layer on `device`, or what it raised; "" if nothing."""
    try:
        return next(_differences(device, dtype), "")
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _differences(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 16, 16, generator=draw).to(device, dtype).requires_grad_()
    weight = torch.randn(x.shape, generator=draw).to(device, dtype)
    sigma, gamma = torch.linspace(0.5, 2.0, 8, device=device), torch.tensor(0.25, device=device)
    seed = torch.tensor([1], device=device)
    z = _normals(x, seed)
    if not (abs(z.mean()) < 5 / z.numel() ** 0.5 and abs(z.std() - 1) < 5 / (2 * z.numel()) ** 0.5):
        yield f"the noise has mean {z.mean():.3f} and standard deviation {z.std():.3f}, not 0 and 1"
    exact, old = x.detach().cpu().double().requires_grad_(), sigma.cpu().double()
    expected = torch.nn.functional.gelu(exact + 0.5 * old.view(1, -1, 1, 1) * z)
    (slope,) = torch.autograd.grad((expected * weight.cpu().double()).sum(), exact)
    moved = (old + exact.detach().transpose(0, 1).flatten(1).std(1)) / 2

    y, moments = functional.stoc_act(x, sigma, gamma, seed, activation="gelu", statistics=True)
    (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    count = torch.tensor(0, device=device)
    functional.update_sigma(sigma, torch.empty_like(sigma), count, moments.unsqueeze(0), 0.5)
    for what, got, wanted in (("y", y, expected), ("the gradient", gradient, slope), ("sigma", sigma, moved)):
        error = (got.detach().cpu().double() - wanted.detach()).abs().max().item()
        if not error <= _TOLERANCE[dtype] * max(1.0, wanted.abs().max().item()):  # nor is NaN
            yield f"{what} is {error:.3g} away from its value in float64"


def _normals(x: Tensor, seed: Tensor) -> Tensor:
    """The noise in units of √γ·σ that x gets from this seed: what is added to zeros."""
    one = torch.ones(x.shape[1], device=x.device)
    zeros = torch.zeros(x.shape, device=x.device)
    z = functional.stoc_act(zeros, one, one[0], seed, activation="identity")
    assert isinstance(z, Tensor)
    return z.cpu().double()
