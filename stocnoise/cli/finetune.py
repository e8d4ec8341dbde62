"""Train the student of a model on a folder of images, and evaluate it; killed, the same command goes on.

If the model has another number of classes than the folder, it gets a new head, which is trained first, on clean images.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from stocnoise import hub
from stocnoise.attacks import PGD
from stocnoise.checks import check_number, check_seed, check_whole
from stocnoise.cli import images, models, settings
from stocnoise.cli.settings import natural, positive, setting
from stocnoise.conversion import convert
from stocnoise.conversion.summary import summary
from stocnoise.evaluation import evaluate
from stocnoise.training import GammaSchedule, finetune


@dataclass(frozen=True)
class Settings:
    model: str = setting("timm's or torchvision's name of a model, or module:function", positional=True)
    data: str = setting("folder with train/ and val/, each with one folder of images per class")
    out: str = setting("folder for student, model card, report, pictures and these settings")
    random: bool = setting("random weights instead of pretrained ones", False)
    size: int | None = setting("sides of the images in pixels; default the model's own", None, check=check_whole)
    objective: str = setting("what a step minimises", "at", choices=("at", "trades", "mixed", "clean"))
    epochs: int = setting("of the student", 10, check=check_whole)
    head_epochs: int = setting("of a new head, on clean images", 2, check=check_whole)
    batch: int = setting("images on each device", 128, check=check_whole)
    lr: float = setting("peak learning rate", 0.01, check=positive)
    eps: float = setting("in steps of 1/255", 4.0, check=positive)
    steps: int = setting("of PGD in training", 3, check=check_whole)
    gamma: float = setting("the noise at the end", 0.1, check=check_number)
    precision: str | None = setting("of training", None, choices=("no", "bf16", "fp16"))
    images: int = setting("to evaluate on", 1000, check=check_whole)
    attack_steps: int = setting("of the attacks of the evaluation", 20, check=check_whole)
    eot: int = setting("draws of the noise for each of their gradients", 8, check=check_whole)
    draws: int = setting("passes over each image when it is scored", 32, check=check_whole)
    seed: int = setting("of everything random", 0, check=check_seed)
    workers: int = setting("processes that load images", 4, check=natural)
    progress: bool = setting("show bars", True)


_FREE = ("workers", "progress")  # what may differ when a run goes on


def run(asked: Settings) -> int:
    out = Path(asked.out)
    main_process = os.environ.get("RANK", "0") == "0"
    config = models.image_config(asked.model, asked.size)
    train, val = _loaders(asked, config)
    if main_process:
        settings.keep(asked, out, _FREE)
    if (out / "report.json").exists():
        print(f"{out} is complete: {out / 'README.md'} says what came out")
        return 0

    torch.manual_seed(asked.seed)
    classes: list[str] = train.dataset.classes  # type: ignore[attr-defined]
    bare, head = models.with_new_head(asked.model, len(classes), pretrained=not asked.random)
    teacher = models.of_pixels(bare, config)
    teacher = models.on_device(teacher).train()
    common: dict[str, Any] = {
        "seed": asked.seed,
        "precision": asked.precision,
        "resume": True,
        "progress": asked.progress,
    }
    if head:
        print(f"A new head for {len(classes)} classes.")
        finetune(
            teacher,
            train,
            epochs=asked.head_epochs,
            objective="clean",
            optimizer=torch.optim.SGD(head, asked.lr, momentum=0.9),
            checkpoint_dir=out / "checkpoints" / "head",
            **common,
        )

    student = convert(teacher, torch.zeros(2, *config["input_size"], device=next(teacher.parameters()).device))
    print(summary(student))
    history = finetune(
        student,
        train,
        epochs=asked.epochs,
        objective=asked.objective,
        attack=PGD(eps=asked.eps / 255, steps=asked.steps, step_size=2 * asked.eps / asked.steps / 255),
        gamma=GammaSchedule(init=min(0.01, asked.gamma), max=asked.gamma),
        lr=asked.lr,
        checkpoint_dir=out / "checkpoints" / "student",
        channels_last=True,
        **common,
    )
    report = evaluate(
        student.eval(),
        val,
        ["pgd", "apgd"],
        [asked.eps / 255 / 2, asked.eps / 255],
        eot=asked.eot,
        steps=asked.attack_steps,
        draws=asked.draws,
        max_images=asked.images,
        transfer_from=teacher.eval(),
        name=f"{asked.model}, student",
        seed=asked.seed,
        progress=asked.progress,
        keep_examples=12,
        path=out / "checkpoints" / "evaluation.json",
        resume=True,
    )
    print(report)
    if report.settings["images"] < min(asked.images, len(val.dataset)):  # type: ignore[arg-type]
        raise KeyboardInterrupt  # of which `evaluate` has made a report
    if main_process:
        history.plot(str(out / "history.png"))
        report.plot(path=out / "asr.png")
        report.to_html(out / "report.html")
        (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        hub.save(  # last, and of it the report last: where that stands, the run is complete
            student,
            out,
            teacher=None if models.is_function(asked.model) else asked.model,
            classes=None if models.is_function(asked.model) else len(classes),
            training={name: value for name, value in asdict(asked).items() if name not in ("out", *_FREE)},
            report=report,
            dataset=Path(asked.data).resolve().name,
        )
    return 0


def _loaders(asked: Settings, config: dict[str, Any]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation images."""
    train = images.classes_of(Path(asked.data) / "train", config, training=True)
    val = images.classes_of(Path(asked.data) / "val", config)
    if train.classes != val.classes:
        raise ValueError(f"{asked.data}: train/ and val/ have different classes")
    if len(train) < asked.batch:
        raise ValueError(f"{asked.data}/train holds {len(train)} images, less than one --batch of {asked.batch}")
    return (
        DataLoader(
            train,
            asked.batch,
            shuffle=True,
            drop_last=True,
            num_workers=asked.workers,
            pin_memory=torch.cuda.is_available(),
        ),
        images.shuffled(val, asked.batch, asked.workers, 0),
    )
