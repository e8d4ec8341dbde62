"""AutoAttack, the field's named number, through pyautoattack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from stocnoise.attacks.base import BallAttack, Target
from stocnoise.attacks.libraries import Classifier, contained, require

Version = Literal["rand", "standard", "plus"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BallAttack):
    """AutoAttack with its published settings; needs `stocnoise[autoattack]`.

    "rand", for stochastic models, is APGD on the cross-entropy and on the DLR loss, 100 steps of 20 draws each. It
    keeps a point after one draw that misclassifies it, so what counts is the score of its images on fresh draws, which
    can be lower than that of plain PGD. "standard" and "plus" suit deterministic models only.

    Args:
        version: "rand", "standard" or "plus".
        eps, norm: see `BallAttack`. `eot` is not used: the version says how many draws.

    Source: Croce & Hein, ICML 2020.
    """

    version: Version = "rand"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in get_args(Version):
            raise ValueError(f"version must be one of {', '.join(get_args(Version))}, not {self.version!r}")

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        library = require("pyautoattack", "autoattack")
        with contained(x, generator) as seed:
            attack = library.AutoAttack(
                Classifier(target),
                norm={"inf": "Linf", "l2": "L2"}[self.norm],
                eps=self.eps,
                version=self.version,
                seed=seed,
                device=x.device,
            )
            found, _ = attack.run_standard_evaluation(x.float(), y, batch_size=len(x))
        return found.to(x)
