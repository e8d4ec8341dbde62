"""The decision boundary on the plane through three images, recorded while a network trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import stocnoise
from stocnoise.training import Callback, Run

SIZE = 48
MARGIN = 0.4
"""How far the picture reaches beyond the three images, in units of the triangle's extent."""


class Plane(Callback):
    """After each of `epochs` (0: before the first), the class at SIZE × SIZE points of the plane through `images`.

    A point is a + u·e₁ + v·e₂, with a the first image, e₁ the direction to the second and e₂ orthogonal to it in the
    plane; its class is that of the mean softmax over 16 draws of the noise.
    """

    def __init__(self, images: Tensor, labels: Tensor, epochs: tuple[int, ...]) -> None:
        self.images, self.labels, self.epochs = images, labels, epochs
        self.maps: dict[str, list[list[int]]] = {}

    def on_epoch_begin(self, run: Run) -> None:
        if run.epoch == 0:
            self._record(run.student, 0)

    def on_epoch_end(self, run: Run) -> None:
        self._record(run.student, run.epoch)

    def _record(self, student: nn.Module, epoch: int) -> None:
        if epoch in self.epochs:
            device = next(student.parameters()).device
            points, _ = grid(self.images)
            with torch.random.fork_rng(), torch.no_grad():
                classes = [stocnoise.predict(student, part.to(device)).probabilities for part in points.split(256)]
            self.maps[str(epoch)] = torch.cat(classes).argmax(1).view(SIZE, SIZE).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"maps": self.maps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.maps = state["maps"]

    def to_dict(self) -> dict[str, Any]:
        """The maps by epoch, and where in them the three images lie: columns and rows."""
        return {"maps": self.maps, "places": grid(self.images)[1].tolist(), "labels": self.labels.tolist()}


def grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """The points of the plane, row by row, (SIZE², C, H, W), and the places of the three images in it, (3, 2)."""
    a, b, c = images.double().flatten(1)
    first = (b - a) / (b - a).norm()
    second = (c - a) - (c - a) @ first * first
    second = second / second.norm()
    places = torch.stack([torch.stack([(p - a) @ first, (p - a) @ second]) for p in (a, b, c)])
    low, high = places.amin(0), places.amax(0)
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    u, v = (torch.linspace(float(low[i]), float(high[i]), SIZE, dtype=torch.float64) for i in range(2))
    points = a + u.repeat(SIZE)[:, None] * first + v.repeat_interleave(SIZE)[:, None] * second
    shown = (places - low) / (high - low) * (SIZE - 1)
    return points.view(-1, *images.shape[1:]).to(images.dtype), shown


def corners(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first image of each of the first three classes."""
    index = [int((labels == label).nonzero()[0]) for label in range(3)]
    return images[index], labels[index]
