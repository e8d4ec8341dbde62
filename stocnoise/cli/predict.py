"""Ask a model about images, several times each: the class, its probability, how far the answers spread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from stocnoise.checks import check_seed, check_whole
from stocnoise.cli import images, models
from stocnoise.cli.settings import natural, setting
from stocnoise.conversion.summary import table
from stocnoise.prediction import predict


@dataclass(frozen=True)
class Settings:
    model: str = setting("name, module:function, or the folder that finetune wrote", positional=True)
    images: tuple[str, ...] = setting("files, and folders of them", positional=True)
    weights: str | None = setting("a student's file or folder, or a checkpoint; default pretrained", None)
    classes: int | None = setting("that the model tells apart; default its authors'", None, check=check_whole)
    names: str | None = setting("file with a name of a class a line; default the folder's classes.txt", None)
    size: int | None = setting("sides of the images in pixels; default the model's own", None, check=check_whole)
    samples: int = setting("passes over each image", 16, check=check_whole)
    json: bool = setting("print a JSON object a line instead of a table", False)
    batch: int = setting("images at once", 50, check=check_whole)
    seed: int = setting("of the noise", 0, check=check_seed)
    workers: int = setting("processes that load images", 0, check=natural)


def run(asked: Settings) -> int:
    config = models.image_config(asked.model, asked.size)
    paths = images.below(asked.images)
    names = _names(asked)
    model = models.chosen(asked.model, asked.weights, asked.classes or len(names) or None, config)
    model = models.on_device(model)
    device = next(model.parameters()).device
    torch.manual_seed(asked.seed)
    found: list[dict[str, str | float]] = []
    for x in DataLoader(images.Files(paths, config), asked.batch, num_workers=asked.workers):
        answer = predict(model, x.to(device), asked.samples)
        assert answer.agreement is not None
        best = answer.probabilities.argmax(1)
        for row, label in enumerate(best.tolist()):
            found.append(
                {
                    "image": str(paths[len(found)]),
                    "class": names[label] if label < len(names) else str(label),
                    "probability": round(answer.probabilities[row, label].item(), 4),
                    "spread": round(answer.spread[row, label].item(), 4),
                    "agreement": round(answer.agreement[row].item(), 4),
                }
            )
    if asked.json:
        print(*map(json.dumps, found), sep="\n")
    else:
        print(table(list(found[0]), [list(map(str, line.values())) for line in found], right=2))
    return 0


def _names(asked: Settings) -> list[str]:
    places = [asked.names] if asked.names else [f"{folder}/classes.txt" for folder in (asked.weights, asked.model)]
    for path in map(Path, filter(None, places)):
        if path.is_file() or asked.names:
            return path.read_text(encoding="utf-8").splitlines()
    return []
