"""Models whose students are written to files; the files in `tests/files` are of these, so they keep their keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import stocnoise


class Block(nn.Module):
    """One ReLU used twice, a GELU as a function, and tied weights."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.head = nn.Linear(width, width, bias=False)
        self.tied = nn.Linear(width, width, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.two(self.relu(self.one(x)))))
        return self.tied(nn.functional.gelu(self.head(x.mean((2, 3)))))


class Tokens(nn.Module):
    """Called with keywords: numbers of words and a flag; an activation that is not fused, and channels in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 6)
        self.mix = nn.Sequential(nn.Linear(6, 10), nn.ELU(), nn.Linear(10, 6), nn.SiLU())
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, scale: Tensor, last: bool = False) -> Tensor:
        x = self.mix(self.words(ids)) * scale
        return self.head(x[:, -1] if last else x.mean(1))


EXAMPLE = torch.zeros(2, 3, 8, 8)
TOKENS = {"ids": torch.zeros(2, 5, dtype=torch.int64), "scale": torch.zeros(2, 1, 1), "last": True}


def images(batch: int = 4) -> Tensor:
    return torch.linspace(-2, 2, batch * 3 * 8 * 8).sin().view(batch, 3, 8, 8)


def words() -> dict[str, Tensor]:
    return {"ids": torch.arange(20).view(4, 5) % 12, "scale": torch.linspace(0.5, 2, 4).view(4, 1, 1)}


def outputs(student: nn.Module, given: tuple[Tensor, ...] | dict[str, Tensor]) -> dict[str, Tensor]:
    """What a student answers without noise and with noise of one seed."""
    args, kwargs = (given, {}) if isinstance(given, tuple) else ((), given)
    student.eval()
    with torch.no_grad():
        with stocnoise.deterministic(student):
            quiet = student(*args, **kwargs)
        with stocnoise.fixed_noise(student, 7):
            noisy = student(*args, **kwargs)
    return {"quiet": quiet, "noisy": noisy}
