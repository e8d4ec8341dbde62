"""Several attacks on the same images: the best of all for each, in stages, so that a reader sees whether they end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stocnoise.evaluation.rates import ratio, worst_case
from stocnoise.evaluation.scoring import Score


class Cascade:
    """The best attack so far for each image: one half of its draws chooses it, and the other half scores it.

    Args:
        clean: of all images.
        attacked: of all images, by each of the first attacks.
    """

    def __init__(self, clean: Score, attacked: list[Score]) -> None:
        self.clean, self.best = clean, attacked[0]
        for score in attacked[1:]:
            self.add(torch.arange(len(clean.averaged)), score)

    @property
    def left(self) -> Tensor:
        """The images that some of the choosing draws still get right."""
        return self.best.correct[:, : self._half].any(1).nonzero().flatten()

    @property
    def worst(self) -> Score:
        """What the draws that did not choose say."""
        return worst_case(self.clean, [self.best])[2]

    def add(self, images: Tensor, score: Score) -> None:
        """Take what another attack did to those images where it did better."""
        better = score.correct[:, : self._half].sum(1) < self.best.correct[images, : self._half].sum(1)
        correct, averaged = self.best.correct.clone(), self.best.averaged.clone()
        correct[images[better]], averaged[images[better]] = score.correct[better], score.averaged[better]
        self.best = Score(correct, averaged)

    def figures(self) -> dict[str, Any]:
        """ASR and robust accuracy up to here, with 95 % intervals."""
        asr = worst_case(self.clean, [self.best])[0].rate
        robust = ratio(self.worst.p, torch.ones(len(self.best.averaged), dtype=torch.float64))
        return {
            "asr": asr.value,
            "asr_interval": [asr.low, asr.high],
            "robust_accuracy": robust.value,
            "robust_accuracy_interval": [robust.low, robust.high],
        }

    @property
    def _half(self) -> int:
        return max(1, self.best.correct.shape[1] // 2)
