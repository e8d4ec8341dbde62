"""The images of a scale, in memory: training, held-out and test images, pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.paper.scale import Data

Batch = tuple[Tensor, Tensor]


class Images(Dataset[Batch]):
    """Images (N, C, H, W), stored as bytes, and labels (N,); a batch is cut and augmented at once."""

    def __init__(self, pixels: Tensor, labels: Tensor, crop: bool = False, flip: bool = False) -> None:
        self.pixels, self.labels = pixels, labels
        self.crop, self.flip = crop, flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        x = self.pixels[index].float() / 255
        if self.crop:
            x = _cropped(x, x.shape[-1] // 8)
        if self.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        return x, self.labels[index]

    def everything(self) -> Batch:
        return self.pixels.float() / 255, self.labels


def _cropped(x: Tensor, margin: int) -> Tensor:
    """Each image moved by up to `margin` pixels both ways, zeros coming in."""
    padded = F.pad(x, [margin] * 4)
    tops, lefts = torch.randint(0, 2 * margin + 1, (2, len(x))).tolist()
    height, width = x.shape[-2:]
    return torch.stack(
        [image[:, t : t + height, s : s + width] for image, t, s in zip(padded, tops, lefts, strict=True)]
    )


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Split:
    train: Images
    holdout: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.test.pixels.shape[1]

    def loader(self, batch_size: int, workers: int = 0) -> DataLoader[Batch]:
        """Training batches, in a new order each epoch."""
        return DataLoader(
            self.train, batch_size, shuffle=True, drop_last=True, num_workers=workers, collate_fn=_as_it_is
        )


def batches(images: Images, count: int | None, size: int) -> list[Batch]:
    """The first `count` images in batches."""
    x, y = images.everything()
    return list(zip(x[:count].split(size), y[:count].split(size), strict=True))


def load(data: Data, root: Path) -> Split:
    """Read the data; torchvision's sets are downloaded to `root` if they are not there, a folder is `root` itself."""
    (x, y), (test_x, test_y) = _SOURCES[data.source](data, root)
    x, y = x[: data.train_images], y[: data.train_images]
    test_x, test_y = test_x[: data.test_images], test_y[: data.test_images]
    train_x, train_y = x[data.holdout :], y[data.holdout :]
    pixels = train_x.float() / 255
    return Split(
        Images(train_x, train_y, data.augment, data.augment and data.flip),
        Images(x[: data.holdout], y[: data.holdout]),
        Images(test_x, test_y),
        int(y.max()) + 1,
        data.mean or tuple(pixels.mean((0, 2, 3)).tolist()),
        data.std or tuple(pixels.std((0, 2, 3)).tolist()),
    )


def _digits(data: Data, root: Path) -> tuple[Batch, Batch]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    x = torch.tensor(found.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    y = torch.tensor(found.target)
    train, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=found.target)
    return (x[train], y[train]), (x[test], y[test])


def _cifar(data: Data, root: Path) -> tuple[Batch, Batch]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.source]
    parts = [kind(root, train=train, download=True) for train in (True, False)]
    train, test = (
        (_sized(torch.from_numpy(part.data).permute(0, 3, 1, 2), data), torch.tensor(part.targets)) for part in parts
    )
    return train, test


def _folder(data: Data, root: Path) -> tuple[Batch, Batch]:
    """Both halves of an ImageFolder, its images in the order of their file names, so that classes take turns."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    halves = []
    for name, count in (("train", data.train_images), ("test", data.test_images)):
        files = ImageFolder(root / name)
        chosen = sorted(files.samples, key=lambda sample: Path(sample[0]).name)[:count]
        x = torch.stack([pil_to_tensor(files.loader(path)) for path, _ in chosen])
        halves.append((_sized(x, data), torch.tensor([label for _, label in chosen])))
    return halves[0], halves[1]


def _sized(x: Tensor, data: Data) -> Tensor:
    factor = x.shape[-1] // data.image_size
    if factor * data.image_size != x.shape[-1] or x.shape[-2] != x.shape[-1]:
        raise ValueError(f"images of {tuple(x.shape[-2:])} cannot be averaged down to {data.image_size}²")
    return x if factor == 1 else F.avg_pool2d(x.float(), factor).round().to(torch.uint8)


_SOURCES = {"digits": _digits, "cifar10": _cifar, "cifar100": _cifar, "folder": _folder}
