"""The set an attack may search: what lies within ε of the original, within bounds, and changes what it may change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from stocnoise.checks import check_choice, check_tensor, check_values

Norm = Literal["inf", "l2"]

Bound = float | Tensor | None
Bounds = tuple[Bound, Bound] | None
"""Lowest and highest value, numbers or tensors that broadcast to one input; None where there is no limit."""

PIXELS: Bounds = (0.0, 1.0)


def check_norm(norm: str) -> None:
    check_choice("norm", norm, get_args(Norm))


def check_eps(eps: float | Tensor, norm: Norm, bounds: Bounds) -> None:
    """ValueError for an ε that no attack can mean."""
    if not isinstance(eps, Tensor | Real) or isinstance(eps, bool):
        raise ValueError(f"eps must be a number, or a tensor of one for each feature, not {eps!r}")
    if isinstance(eps, Tensor):
        check_values("eps", eps)
    values = torch.as_tensor(eps, dtype=torch.float64)
    if not ((values >= 0) & values.isfinite()).all():
        raise ValueError(f"eps must be a finite number of at least 0, not {eps}")
    if isinstance(eps, Tensor) and eps.dim() and norm != "inf":
        raise ValueError("eps for each feature is a budget in L∞: with norm='l2' eps must be a number")
    low, high = limits(bounds)
    width = (torch.as_tensor(high, dtype=torch.float64) - torch.as_tensor(low, dtype=torch.float64)).cpu()
    if norm == "inf" and (values.cpu() > width * (1 + 1e-6)).any():
        largest = values.max().item()
        raise ValueError(
            f"eps = {largest:g} is more than the whole range of inputs within {bounds}: {largest:g} of 255 is "
            f"eps={largest:g}/255; for inputs of another range say bounds=(low, high), or bounds=None"
        )


def largest(eps: float | Tensor) -> float:
    """ε as one number: of a budget for each feature the largest."""
    return float(eps.max()) if isinstance(eps, Tensor) else eps


def check_bounds(bounds: Bounds) -> None:
    """ValueError for bounds that are no pair, or between which nothing lies."""
    if bounds is None:
        return
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):
        raise ValueError(f"bounds must be a pair (low, high) or None, not {bounds!r}")
    for bound in bounds:
        if not (bound is None or isinstance(bound, Tensor | Real)):
            raise ValueError(f"bounds must be numbers, tensors or None, not {bound!r}")
        if isinstance(bound, Tensor):
            check_values("bounds", bound)
    low, high = limits(bounds)
    if not (torch.as_tensor(low) < torch.as_tensor(high)).all():
        raise ValueError(f"bounds must be (low, high) with low < high, not {bounds!r}")


def check_mask(mask: Tensor | None) -> None:
    """ValueError for a mask that holds anything but 0 and 1."""
    if mask is None:
        return
    check_tensor("mask", mask)
    check_values("mask", mask)
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold 0 (stays as it is) and 1 (may be changed)")


def limits(bounds: Bounds) -> tuple[float | Tensor, float | Tensor]:
    """Lowest and highest value, infinite where there is no limit."""
    low, high = (None, None) if bounds is None else bounds
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def clipped(point: Tensor, bounds: Bounds) -> Tensor:
    """The closest point within bounds, in place."""
    low, high = limits(bounds)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(point, torch.as_tensor(low).to(point), torch.as_tensor(high).to(point), out=point)
    return point.clamp_(low, high)


def norms(delta: Tensor, norm: Norm) -> Tensor:
    """‖δ_i‖ of each row, shape (B,)."""
    return torch.linalg.vector_norm(delta.flatten(1), torch.inf if norm == "inf" else 2, dim=1)


def per_row(v: Tensor, x: Tensor) -> Tensor:
    """View (B,) so that it broadcasts over the rows of x."""
    return v.view(-1, *[1] * (x.dim() - 1))


def rounded(found: Tensor, x: Tensor) -> Tensor:
    """`found` in x's type, each element rounded towards that of x, so that no ball around x is left by rounding."""
    near = found.to(x.dtype)
    if x.dtype not in (torch.float16, torch.bfloat16):
        return near
    away = (near.to(found.dtype) - x.to(found.dtype)).abs() > (found - x.to(found.dtype)).abs()
    # Floats of one sign are ordered as the integers of their bits; zero goes to the smallest number of the other sign.
    bits, down = near.view(torch.int16), near > x
    inward = torch.where((near > 0) == down, bits - 1, bits + 1)
    smallest = torch.where(down, torch.full_like(bits, -32767), torch.ones_like(bits))
    return torch.where(away, torch.where(near == 0, smallest, inward).view(x.dtype), near)


@dataclass(frozen=True)
class Ball:
    """{z : ‖z_i − x_i‖ ≤ ε for every row i, low ≤ z ≤ high, z = x where the mask is 0}.

    With a budget for each feature, ε is a tensor that broadcasts to one input: |z − x| ≤ ε element by element.
    """

    x: Tensor
    eps: float | Tensor
    norm: Norm
    bounds: Bounds = PIXELS
    mask: Tensor | None = None

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, norm: Norm, bounds: Bounds, mask: Tensor | None) -> Ball:
        """The ball of an attack's settings, on x's device and in its type.

        Raises:
            ValueError: ε or the mask do not broadcast to one input.
        """
        budget = eps.to(x) if isinstance(eps, Tensor) and eps.dim() else float(eps)
        for name, value in (("eps", budget), ("mask", mask)):
            if isinstance(value, Tensor) and not _broadcasts(value, x[0]):
                shapes = f"{tuple(value.shape)} does not fit inputs of shape {tuple(x[0].shape)}"
                raise ValueError(f"{name} of shape {shapes}")
        return cls(x, budget, norm, bounds, None if mask is None else mask.to(x.device).bool())

    def __getitem__(self, rows: Tensor) -> Ball:
        return Ball(self.x[rows], self.eps, self.norm, self.bounds, self.mask)

    @property
    def radius(self) -> float:
        """The length of a step across the ball: ε, or 1 where `direction` is in units of each feature's budget."""
        return 1.0 if isinstance(self.eps, Tensor) else self.eps

    def random(self, generator: torch.Generator | None = None, radius: float = 1.0) -> Tensor:
        """A point uniform in the ball of `radius`·ε around each row, within bounds."""
        x, eps = self.x, self.eps * radius
        if self.norm == "inf":
            noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            return clipped(x + self._masked(noise * (2 * eps) - eps), self.bounds)
        # n coordinates of a uniform point on the sphere in n + 2 dimensions (Voelker et al. 2017).
        n = x[0].numel()
        noise = torch.randn(len(x), n + 2, dtype=x.dtype, device=x.device, generator=generator)
        noise = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        return clipped(x + self._masked(eps * noise[:, :n].reshape(x.shape)), self.bounds)

    def project(self, point: Tensor) -> Tensor:
        """The closest point of the ball, then within bounds (which moves it towards x, never out of the ball)."""
        point = self._changed(point)
        if self.norm == "inf":
            return clipped(torch.clamp(point, self.x - self.eps, self.x + self.eps), self.bounds)
        delta = point - self.x
        factor = (self.eps / norms(delta, "l2").clamp_min(1e-12)).clamp_max(1)
        return clipped(self.x + delta * per_row(factor, delta), self.bounds)

    def clip(self, point: Tensor) -> Tensor:
        """The closest point within bounds that changes what the mask allows, however far from x."""
        return clipped(self._changed(point), self.bounds)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent of unit norm: sign(g) for L∞ (ε·sign(g) for an ε of each feature), g/‖g‖₂ for L2."""
        gradient = self._masked(gradient)
        if self.norm == "inf":
            return gradient.sign() * self.eps if isinstance(self.eps, Tensor) else gradient.sign()
        return gradient / per_row(norms(gradient, "l2").clamp_min(1e-12), gradient)

    def _changed(self, point: Tensor) -> Tensor:
        return point if self.mask is None else torch.where(self.mask, point, self.x)

    def _masked(self, delta: Tensor) -> Tensor:
        return delta if self.mask is None else delta * self.mask


def _broadcasts(value: Tensor, one: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(value.shape, one.shape) == one.shape
    except RuntimeError:
        return False
