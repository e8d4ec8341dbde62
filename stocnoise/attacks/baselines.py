"""Attacks that ask the model nothing: what any white-box attack must beat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import clipped, norms, per_row
from stocnoise.attacks.base import BallAttack
from stocnoise.attacks.pgd import PGD
from stocnoise.attacks.target import Target


@dataclass(frozen=True, kw_only=True)
class RandomNoise(BallAttack):
    """Noise of norm ε in a random direction: x ± ε with random signs for L∞, a point of the sphere for L2.

    Example:
        >>> noisy = stocnoise.RandomNoise(eps=8 / 255)(student, images, labels)
    """

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        if self.mask is not None:
            noise = noise * self.mask.to(noise)
        noise = noise.sign() if self.norm == "inf" else noise / per_row(norms(noise, "l2").clamp_min(1e-12), noise)
        return clipped(x + self.ball(x).eps * noise, self.bounds)


_PGD = PGD(steps=20)


@dataclass(frozen=True, kw_only=True)
class Transfer(BallAttack):
    """Images made on `source`, the teacher or any other model, for use on another one, which is not asked.

    Args:
        source: the model to attack.
        attack: how; its ε and norm are replaced by this attack's own, and what it leaves unsaid is taken from it.
        eps, norm: see `BallAttack`.

    Example:
        >>> adversarial = stocnoise.Transfer(source=model, attack=stocnoise.PGD(steps=5))(student, images, labels)
    """

    source: nn.Module
    attack: BallAttack = _PGD

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.source, nn.Module):
            raise ValueError(f"source must be the model to make images on, not {self.source!r}")
        if not isinstance(self.attack, BallAttack):
            raise ValueError(f"attack must be one in a ball, such as PGD(), not {self.attack!r}")

    @property
    def leaves_ball(self) -> bool:
        return self.attack.leaves_ball

    def scaled(self, share: float) -> Self:
        return dataclasses.replace(super().scaled(share), attack=self.attack.scaled(share))

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        bare = dataclasses.replace(self.attack, eps=0.0, norm=self.norm)
        asked = bare.with_defaults(task=self.task, output=self.output, bounds=self.bounds, mask=self.mask)
        attack = dataclasses.replace(asked, eps=self.eps)
        found = attack(self.source, x.to(target.dtype), y, others=target.others, generator=generator)
        return found.to(x.dtype)
