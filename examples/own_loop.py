"""A training loop of one's own, made stochastic and adversarial by the lines marked `#`.

python examples/own_loop.py
"""

from __future__ import annotations

import argparse
import itertools

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Scikit-learn's digits, 8×8 pixels in [0, 1]: 1,437 images to train on and 360 to test."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.tensor(y)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = [1, 16, 32, 32]
    for i, (before, after) in enumerate(itertools.pairwise(channels)):
        layers += [nn.Conv2d(before, after, 3, stride=1 + i % 2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def train(model: nn.Module, loader: DataLoader, epochs: int, adversarial: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(loader))
    attack = stocnoise.PGD(eps=0.15, steps=7)  #
    schedule = stocnoise.GammaSchedule(init=0.01, max=0.1, epochs=epochs)  #
    model.train()
    for epoch in range(epochs):
        for x, y in loader:
            if adversarial:
                x = attack(model, x, y)  #
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        if adversarial:
            gamma = schedule.step(model)  #
            print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, next γ {gamma:.3f}")


def accuracy(model: nn.Module, data: TensorDataset, attack: stocnoise.PGD | None = None) -> float:
    """On fresh noise, whatever noise the attack saw."""
    model.eval()
    x, y = data.tensors
    if attack is not None:
        x = attack(model, x, y)
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    train_set, test_set = digits()
    loader = DataLoader(train_set, batch_size=64, shuffle=True)

    teacher = network()
    train(teacher, loader, epochs, adversarial=False)
    student = stocnoise.convert(teacher, torch.rand(2, 1, 8, 8))  #
    stocnoise.calibrate(student, loader)  #
    train(student, loader, epochs, adversarial=True)

    attack = stocnoise.PGD(eps=0.15, steps=20, eot=4)
    for name, model in (("teacher", teacher), ("student", student)):
        print(f"{name}: accuracy {accuracy(model, test_set):.1%}, under attack {accuracy(model, test_set, attack):.1%}")


if __name__ == "__main__":
    main()
