"""A deterministic network becomes a stochastic one, and is attacked: `make demo`.

A small ResNet of timm learns scikit-learn's handwritten digits. From that teacher, adversarial training and ANIS² each
train a network for the same number of epochs; then all three are attacked. Prints a table, draws ASR against ε, and says
in a sentence what came out, whatever it is.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise

TRAIN_EPS = 0.15  # of pixels in [0, 1]
EPS = (0.05, 0.1, 0.15, 0.2, 0.3)


def digits() -> tuple[DataLoader, DataLoader]:
    """8×8 images of handwritten digits, pixels in [0, 1]: 1,437 to train on and 360 to test on."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    train, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=data.target)
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(x[test], y[test]), batch_size=180),
    )


def small_resnet() -> nn.Module:
    """timm's ResNet-10-T, narrow and without its two halvings at the start: the images are 8×8."""
    model = timm.create_model(
        "resnet10t", in_chans=1, num_classes=10, channels=(16, 32, 64, 64), stem_type="deep", stem_width=8
    )
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"), help="the picture; figures go beside it")
    arguments = parser.parse_args()
    epochs, seed = arguments.epochs, arguments.seed
    started = time.perf_counter()
    torch.manual_seed(seed)
    train, test = digits()
    attack = stocnoise.PGD(eps=TRAIN_EPS, steps=7, step_size=TRAIN_EPS / 4)

    print("The teacher: clean images, no noise.")
    teacher = small_resnet()
    stocnoise.finetune(teacher, train, epochs=epochs, objective="clean", seed=seed)

    print("\nAdversarial training (AT), from the teacher.")
    robust = copy.deepcopy(teacher)
    stocnoise.finetune(robust, train, epochs=epochs, objective="at", attack=attack, seed=seed)

    print("\nANIS²: the teacher converted, then adversarial training with noise that grows.")
    student = stocnoise.convert(teacher, next(iter(test))[0])
    gamma = stocnoise.GammaSchedule(init=0.01, max=0.1)
    stocnoise.finetune(student, train, epochs=epochs, objective="at", attack=attack, gamma=gamma, seed=seed)
    print(f"\n{stocnoise.summary(student)}\n")


if __name__ == "__main__":
    main()
