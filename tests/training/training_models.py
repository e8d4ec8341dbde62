"""Tiny models, data and runs for the tests of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import StocReLUEMA
from stocnoise.attacks import PGD

ATTACK = PGD(eps=0.1, steps=2)


def student(layer: Any = StocReLUEMA, seed: int = 0, width: int = 4, **settings: Any) -> nn.Sequential:
    """Two convolutions with BatchNorm and a stochastic ReLU each, for (B, 1, 6, 6) images of 3 classes."""
    torch.manual_seed(seed)
    relu = stocnoise.activations.Activation("relu")
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        layer(width, activation=relu, **settings),
        nn.Conv2d(width, width, 3),
        nn.BatchNorm2d(width),
        layer(width, activation=relu, **settings),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


def data(n: int = 24, seed: int = 1) -> TensorDataset:
    """Images whose class is the column where they are bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = torch.rand(n, 1, 6, 6, generator=generator) * 0.4
    for i, label in enumerate(y.tolist()):
        x[i, 0, :, 2 * label : 2 * label + 2] += 0.5
    return TensorDataset(x, y)


def loader(n: int = 24, batch_size: int = 8, **settings: Any) -> DataLoader[Any]:
    return DataLoader(data(n), batch_size=batch_size, shuffle=True, **settings)


def finetune(model: nn.Module, train_loader: Any = None, **settings: Any) -> stocnoise.History:
    """`stocnoise.finetune` on the tiny data, fast and silent."""
    given: dict[str, Any] = {"epochs": 2, "attack": ATTACK, "progress": False} | settings
    return stocnoise.finetune(model, loader() if train_loader is None else train_loader, **given)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
