"""The set an attack may search: all images within ε of the original, in pixel space [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["inf", "l2"]


def check_norm(norm: str) -> None:
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be 'inf' or 'l2', not {norm!r}")


def norms(delta: Tensor, norm: Norm) -> Tensor:
    """‖δ_i‖ of each row, shape (B,)."""
    return torch.linalg.vector_norm(delta.flatten(1), torch.inf if norm == "inf" else 2, dim=1)


def per_row(v: Tensor, x: Tensor) -> Tensor:
    """View (B,) so that it broadcasts over the rows of x."""
    return v.view(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Ball:
    """{z : ‖z_i − x_i‖ ≤ ε for every row i} ∩ [0, 1]."""

    x: Tensor
    eps: float
    norm: Norm

    def __getitem__(self, rows: Tensor) -> Ball:
        return Ball(self.x[rows], self.eps, self.norm)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """A point uniform in the ball around each row, clipped to [0, 1]."""
        x = self.x
        if self.norm == "inf":
            noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            return (x + (noise * (2 * self.eps) - self.eps)).clamp_(0, 1)
        # n coordinates of a uniform point on the sphere in n + 2 dimensions (Voelker et al. 2017).
        n = x[0].numel()
        noise = torch.randn(len(x), n + 2, dtype=x.dtype, device=x.device, generator=generator)
        noise = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        return (x + self.eps * noise[:, :n].reshape(x.shape)).clamp_(0, 1)

    def project(self, point: Tensor) -> Tensor:
        """The closest point of the ball, then of [0, 1] (which moves it towards x, never out of the ball)."""
        if self.norm == "inf":
            return torch.clamp(point, self.x - self.eps, self.x + self.eps).clamp_(0, 1)
        delta = point - self.x
        factor = (self.eps / norms(delta, "l2").clamp_min(1e-12)).clamp_max(1)
        return (self.x + delta * per_row(factor, delta)).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent of unit norm: sign(g) for L∞, g/‖g‖₂ for L2."""
        if self.norm == "inf":
            return gradient.sign()
        return gradient / per_row(norms(gradient, "l2").clamp_min(1e-12), gradient)
