"""Carlini and Wagner's L2 attack with expectation over the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stocnoise.attacks.ball import norms, per_row
from stocnoise.attacks.base import MinimumNormAttack, Target
from stocnoise.attacks.losses import margin


@dataclass(frozen=True, kw_only=True)
class CW(MinimumNormAttack):
    """min ‖δ‖₂² + c · mean_k max(0, κ − m_k(x + δ)), m_k = max_{j≠y} z_j − z_y with the k-th draw of noise.

    δ is searched by Adam in w, x + δ = (tanh(w) + 1) / 2, and c by bisection, image by image. Published
    implementations keep a point as soon as one draw misclassifies it, so that nearly every point they keep is a lucky
    one. Here a point counts only if more than half of `eot` draws misclassify it, by κ or more, and it is kept only if
    more than half of `eot` further draws do. (With eot = 1, for deterministic models, the first draw decides.)

    Args:
        steps: Adam steps for each c.
        search_steps: values of c tried: ten times larger as long as nothing is found, then bisection.
        learning_rate: Adam's, in w.
        initial_const: the first c.
        confidence: κ ≥ 0, in units of the logits.
        eot, batch_norm: see `Attack`.

    Source: Carlini & Wagner, S&P 2017, section VI.
    """

    steps: int = 100
    search_steps: int = 6
    learning_rate: float = 0.05
    initial_const: float = 0.1
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.search_steps < 1:
            raise ValueError(f"steps and search_steps must be at least 1, not {self.steps} and {self.search_steps}")
        if not (self.learning_rate > 0 and self.initial_const > 0 and self.confidence >= 0):
            raise ValueError(
                "learning_rate and initial_const must be positive and confidence at least 0, not "
                f"{self.learning_rate}, {self.initial_const} and {self.confidence}"
            )

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        start = torch.atanh((2 * x - 1) * 0.999999)
        const = x.new_full((len(x),), self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, torch.inf)
        best, smallest = x, torch.full_like(const, torch.inf)
        for _ in range(self.search_steps):
            w = start.clone().requires_grad_()
            adam = torch.optim.Adam([w], self.learning_rate)
            succeeded = torch.zeros_like(const, dtype=torch.bool)
            for _ in range(self.steps):
                tanh = w.detach().tanh()
                point = (tanh + 1) / 2
                here = target.ascent(point, y, self._hinge)
                # The hinge is also zero on a tie at κ = 0, which is no misclassification.
                beaten = ((here.losses >= 0).float().mean(0) > 0.5) & (here.wrong > 0.5)
                distance = norms(point - x, "l2")
                closer = self._confirmed(target, point, y, beaten & (distance < smallest))
                best = torch.where(per_row(closer, x), point, best)
                smallest = torch.where(closer, distance, smallest)
                succeeded |= beaten
                slope = 2 * (point - x) - per_row(const, x) * here.gradient
                w.grad = slope * (1 - tanh * tanh) / 2
                adam.step()
            high = torch.where(succeeded, const, high)
            low = torch.where(succeeded, low, const)
            const = torch.where(high.isinf(), const * 10, (low + high) / 2)
        return best

    def _hinge(self, logits: Tensor, y: Tensor) -> Tensor:
        return (margin(logits, y) - self.confidence).clamp_max(0)

    def _confirmed(self, target: Target, point: Tensor, y: Tensor, candidates: Tensor) -> Tensor:
        """The candidates that most of `eot` further draws misclassify too."""
        if self.eot == 1 or not candidates.any():
            return candidates
        rows = candidates.nonzero().squeeze(1)
        hits = torch.stack([self._hinge(logits, y[rows]) >= 0 for logits in target.logits(point[rows])])
        return candidates.index_copy(0, rows, hits.float().mean(0) > 0.5)
