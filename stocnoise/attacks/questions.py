"""A classifier as one sees it who may only ask, and pays for every answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import Norm, norms, per_row
from stocnoise.attacks.target import stacked
from stocnoise.predictors import one_draw_a_pass


class SpentError(Exception):
    """No image has queries left for another question."""


class Questions(nn.Module):
    """ "Is this misclassified?", for each image of a batch at a budget of its own; to foolbox a model of two classes.

    Class 1 is "yes". A question is put to `answers` draws of the noise, whose majority decides, and costs as many
    queries; it is put only where they are left. What was asked before is remembered at no cost, so that the searches of
    foolbox, which ask again what they know, end on a stochastic model. An image without queries left is told "yes", and
    nothing after that counts.

    Args:
        model: images to class logits, in the mode that it is to be attacked in.
        x: the images (B, …).
        y: their labels (B,).
        budget: queries for each.
        answers: to a question.
        norm: in which the attack wants to be near.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, budget: int, answers: int, norm: Norm) -> None:
        super().__init__()
        self.model, self.x, self.y, self.answers, self.norm = model, x, y, answers, norm
        self.training = False
        self._alone = one_draw_a_pass(model)
        self.left = torch.full((len(x),), budget)
        self.nearest = x.clone()
        """Of each image the nearest that was answered "yes"; the image itself where none was."""
        self._distance = x.new_full((len(x),), torch.inf)
        self._known: list[dict[bytes, bool]] = [{} for _ in x]

    def forward(self, x: Tensor) -> Tensor:
        yes = self.ask(x, range(len(x))).to(x)
        return torch.stack([1 - yes, yes], 1)

    def ask(self, x: Tensor, rows: Iterable[int]) -> Tensor:
        """(B,) of bool, whether x is misclassified; True without asking outside `rows`.

        Raises:
            SpentError: there is no image left that could ask anything.
        """
        if not (self.left >= self.answers).any():
            raise SpentError
        said, fresh = torch.ones(len(x), dtype=torch.bool), []
        names = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in (x + 0.0).cpu().numpy()]
        for row in rows:
            if names[row] in self._known[row]:
                said[row] = self._known[row][names[row]]
            elif self.left[row] >= self.answers:
                fresh.append(row)
        if fresh:
            here = torch.tensor(fresh)
            said[here] = self._answered(x, here.to(x.device)).cpu()
            self.left[here] -= self.answers
            for row in fresh:
                self._known[row][names[row]] = bool(said[row])
        return said.to(x.device)

    def _answered(self, x: Tensor, rows: Tensor) -> Tensor:
        asked = x[rows]
        at_once = 1 if self._alone else self.answers
        answers = [self.model(stacked(asked, at_once)).argmax(1) for _ in range(self.answers // at_once)]
        wrong = torch.cat(answers).view(self.answers, -1) != self.y[rows]
        said = 2 * wrong.sum(0) > self.answers
        distance = norms(asked - self.x[rows], self.norm)
        nearer = said & (distance < self._distance[rows])
        self._distance[rows] = torch.where(nearer, distance, self._distance[rows])
        self.nearest[rows] = torch.where(per_row(nearer, asked), asked, self.nearest[rows])
        return said

    def starts(self, candidates: Iterable[Tensor]) -> Tensor:
        """For each image the first candidate that is misclassified; an image without one asks nothing more."""
        missing = list(range(len(self.x)))
        starts = self.x.clone()
        for candidate in candidates:
            yes = self.ask(candidate, missing)
            found = [row for row in missing if yes[row] and self._distance[row] < torch.inf]
            starts[found] = candidate[found]
            missing = [row for row in missing if row not in set(found)]
            if not missing:
                break
        self.left[missing] = 0
        return starts
