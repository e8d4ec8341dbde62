"""Several attacks on the same images: the best of all for each, chosen by draws that do not score it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stocnoise.evaluation.rates import Rate, accuracy, worst_case
from stocnoise.evaluation.scoring import Score


class Cascade:
    """The best attack so far for each image: one half of its draws chooses it, and the other half scores it.

    A single draw, of a model without noise, does both.

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
        return standing(self.best)

    @property
    def worst(self) -> Score:
        """What the draws that did not choose say."""
        return worst_case(self.clean, [self.best])[2]

    def add(self, images: Tensor, score: Score) -> None:
        """Take what another attack did to those images where it did better."""
        self.best, _ = better(self.best, images, score)

    def rates(self) -> tuple[Rate, Rate]:
        """ASR and robust accuracy up to here, with 95 % intervals."""
        return worst_case(self.clean, [self.best])[0].rate, accuracy(self.worst)

    def figures(self) -> dict[str, Any]:
        """The same as plain data."""
        asr, robust = self.rates()
        return {
            "asr": asr.value,
            "asr_interval": [asr.low, asr.high],
            "robust_accuracy": robust.value,
            "robust_accuracy_interval": [robust.low, robust.high],
        }


def standing(best: Score) -> Tensor:
    """The rows that some of the choosing draws still get right."""
    return (choosing(best) > 0).nonzero().flatten()


def better(best: Score, rows: Tensor, score: Score) -> tuple[Score, Tensor]:
    """`best` with `rows` replaced where fewer of the choosing draws of `score` are right; and a mask of which."""
    won = choosing(score) < choosing(best)[rows]
    return best.put(rows[won], score.at(won)), won


def choosing(score: Score) -> Tensor:
    """(n,), what is right in the draws that choose."""
    return score.correct[:, : max(1, score.correct.shape[1] // 2)].double().sum(1)
