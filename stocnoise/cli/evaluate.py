"""Attack a model, or the student made of it, on a folder of images; killed, the same command with --out goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from stocnoise import evaluation
from stocnoise.checks import check_seed, check_whole
from stocnoise.cli import images, models, settings
from stocnoise.cli.settings import natural, positive, setting


@dataclass(frozen=True)
class Settings:
    model: str = setting("name, module:function, or the folder that finetune wrote", positional=True)
    data: str = setting("folder with one folder of images per class, in the order of the model's classes")
    weights: str | None = setting("a student's file or folder, or a checkpoint; default pretrained", None)
    classes: int | None = setting(
        "that the model tells apart; default its authors', a file's the folder's", None, check=check_whole
    )
    size: int | None = setting("sides of the images in pixels; default the model's own", None, check=check_whole)
    attacks: tuple[str, ...] = setting("by name", ("bim", "pgd", "mim", "cw"))
    queries: tuple[int, ...] = setting(
        "budgets of attackers who may only ask (square, boundary, hopskipjump)", (), check=check_whole
    )
    eps: tuple[float, ...] = setting("in steps of 1/255", (1.0, 2.0, 4.0, 8.0), check=positive)
    eot: int = setting("draws of the noise for each gradient", 16, check=check_whole)
    steps: int = setting("of the attacks", 20, check=check_whole)
    draws: int = setting("passes over each image when it is scored", 32, check=check_whole)
    images: int = setting("to evaluate on", 1000, check=check_whole)
    batch: int = setting("images at once", 50, check=check_whole)
    transfer: bool = setting("also attack with images made on the pretrained model", False)
    half: bool = setting("run under autocast to bfloat16", False)
    out: str | None = setting("folder for report.html, report.json, asr.png and these settings", None)
    seed: int = setting("of everything random", 0, check=check_seed)
    workers: int = setting("processes that load images", 2, check=natural)
    progress: bool = setting("show a bar", True)


_FREE = ("workers", "progress")  # what may differ when an evaluation goes on


def run(asked: Settings) -> int:
    config = models.image_config(asked.model, asked.size)
    data = images.classes_of(Path(asked.data), config)
    classes = asked.classes or (len(data.classes) if asked.weights else None)
    model = models.chosen(asked.model, asked.weights, classes, config)
    teacher = models.pretrained(asked.model, classes, config) if asked.transfer else None
    model = models.on_device(model)
    kind = next(model.parameters()).device.type
    out = Path(asked.out) if asked.out else None
    if out:
        settings.keep(asked, out, _FREE)
    with torch.autocast(kind, torch.bfloat16, enabled=asked.half):
        report = evaluation.evaluate(
            model,
            images.shuffled(data, asked.batch, asked.workers, asked.seed),
            list(asked.attacks),
            [level / 255 for level in asked.eps],
            queries=asked.queries or None,
            eot=asked.eot,
            steps=asked.steps,
            draws=asked.draws,
            transfer_from=None if teacher is None else models.on_device(teacher),
            max_images=asked.images,
            seed=asked.seed,
            name=asked.weights or asked.model,
            path=out / "report.json" if out else None,
            resume=out is not None,
            progress=asked.progress,
            keep_examples=12 if out else 0,
        )
    print(report)
    if out:
        report.plot(path=out / "asr.png")
        report.to_html(out / "report.html")
    return 0
