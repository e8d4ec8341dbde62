"""Small networks on scikit-learn's digits (8×8, ten classes) for the tests of attacks and evaluation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, StocReLUEMA


class SmallNet(nn.Module):
    def __init__(self, activation: Callable[[int], nn.Module] = lambda channels: nn.ReLU(), classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            activation(16),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            activation(32),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(32 * 16, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def noisy_net(gamma: float = 0.3) -> SmallNet:
    return SmallNet(lambda channels: StocReLUEMA(channels, gamma=gamma))


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images and labels; images (n, 1, 8, 8) in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)[order] / 16
    y = torch.tensor(data.target)[order]
    return x[:1437], y[:1437], x[1437:], y[1437:]


def _train(model: SmallNet, epochs: int, attack: PGD | None) -> SmallNet:
    x, y, _, _ = digits()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            images = x[rows] if attack is None else attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            F.cross_entropy(model(images), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@functools.cache
def _trained(adversarial: bool, gamma: float | None) -> SmallNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet() if gamma is None else noisy_net(gamma)
        if gamma is not None:
            stocnoise.calibrate(model, digits()[0].split(256))
        return _train(model, 8 if adversarial else 4, PGD(eps=0.15, steps=5) if adversarial else None)


def trained(adversarial: bool = False, gamma: float | None = None) -> SmallNet:
    """A network of the test's own, trained once per session: with `gamma` a stochastic one. In eval mode."""
    return copy.deepcopy(_trained(adversarial, gamma))


def accuracy(model: nn.Module, x: Tensor, y: Tensor, draws: int = 1) -> float:
    with torch.no_grad():
        return torch.stack([(model(x).argmax(1) == y).float().mean() for _ in range(draws)]).mean().item()


__all__ = ["SmallNet", "accuracy", "digits", "noisy_net", "trained"]
