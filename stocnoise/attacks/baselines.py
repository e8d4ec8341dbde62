"""Attacks that ask the model nothing: what any white-box attack must beat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import norms, per_row
from stocnoise.attacks.base import BallAttack, Target
from stocnoise.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class RandomNoise(BallAttack):
    """Noise of norm ε in a random direction: x ± ε with random signs for L∞, a point of the sphere for L2."""

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        noise = noise.sign() if self.norm == "inf" else noise / per_row(norms(noise, "l2"), noise)
        return (x + self.eps * noise).clamp_(0, 1)


_PGD = PGD(steps=20)


@dataclass(frozen=True, kw_only=True)
class Transfer(BallAttack):
    """Images made on `source`, the teacher or any other model, for use on another one, which is not asked.

    Args:
        source: the model to attack.
        attack: how; its ε and norm are replaced by this attack's own.
        eps, norm: see `BallAttack`.
    """

    source: nn.Module
    attack: BallAttack = _PGD

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        attack = dataclasses.replace(self.attack, eps=self.eps, norm=self.norm)
        return attack(self.source, x.to(target.dtype), y, generator=generator).to(x.dtype)
