"""Train the student of a model on a folder of images, and evaluate it; killed, the same command goes on.

If the model has another number of classes than the folder, it gets a new head, which is trained first, on clean images.
With `--hold-out` the student is that of its best epoch, chosen on images of train/ that are not trained on; val/ is
there to evaluate it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from stocnoise import hub
from stocnoise.attacks import PGD
from stocnoise.checks import check_number, check_seed, check_whole
from stocnoise.cli import images, models, settings
from stocnoise.cli.settings import natural, positive, setting
from stocnoise.conversion import convert
from stocnoise.conversion.summary import summary
from stocnoise.evaluation import evaluate
from stocnoise.storage import replacing
from stocnoise.training import EpsSchedule, GammaSchedule, finetune
from stocnoise.training.objectives import NAMES


@dataclass(frozen=True)
class Settings:
    model: str = setting("timm's or torchvision's name of a model, or module:function", positional=True)
    data: str = setting("folder with train/ and val/, each with one folder of images per class")
    out: str = setting("folder for student, model card, report, pictures and these settings")
    random: bool = setting("random weights instead of pretrained ones", False)
    size: int | None = setting("sides of the images in pixels; default the model's own", None, check=check_whole)
    objective: str = setting("what a step minimises", "at", choices=NAMES)
    epochs: int = setting("of the student", 10, check=check_whole)
    head_epochs: int = setting("of a new head, on clean images", 2, check=check_whole)
    hold_out: int = setting(
        "images of train/ not trained on, to choose the best epoch by; 0: the last epoch", 0, check=natural
    )
    batch: int = setting("images on each device", 128, check=check_whole)
    lr: float = setting("peak learning rate", 0.01, check=positive)
    eps: float = setting("in steps of 1/255", 4.0, check=positive)
    warmup: float = setting("epochs in which eps grows from 0, which transformers need", 0.0, check=check_number)
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
    train, held, val, classes = _loaders(asked, config)
    if main_process:
        settings.keep(asked, out, _FREE)
    if (out / "report.json").exists():
        print(f"{out} is complete: {out / 'README.md'} says what came out")
        return 0

    torch.manual_seed(asked.seed)
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
        eps=EpsSchedule(asked.warmup) if asked.warmup else None,
        val_loader=held,
        val_attack=PGD(eps=asked.eps / 255),
        lr=asked.lr,
        checkpoint_dir=out / "checkpoints" / "student",
        channels_last=True,
        **common,
    )
    chosen: dict[str, Any] = {}
    if (best := history.best) is not None:
        best.restore(student)
        chosen = {"best_epoch": best.epoch}
        print(
            f"The student is that of epoch {best.epoch} of {len(history)}: {best.robust_accuracy:.1%} robust on "
            f"{asked.hold_out} images held out, {history[-1].val_robust_accuracy:.1%} after the last epoch."
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
        with replacing(out / "classes.txt") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        hub.save(  # last, and of it the report last: where that stands, the run is complete
            student,
            out,
            teacher=None if models.is_function(asked.model) else asked.model,
            classes=None if models.is_function(asked.model) else len(classes),
            training={name: value for name, value in asdict(asked).items() if name not in ("out", *_FREE)} | chosen,
            report=report,
            dataset=Path(asked.data).resolve().name,
        )
    return 0


def _loaders(
    asked: Settings, config: dict[str, Any]
) -> tuple[DataLoader[Any], DataLoader[Any] | None, DataLoader[Any], list[str]]:
    """Images to train on, those held out of them, those to evaluate on, and the classes."""
    folder = Path(asked.data) / "train"
    train = images.classes_of(folder, config, training=True)
    val = images.classes_of(Path(asked.data) / "val", config)
    if train.classes != val.classes:
        raise ValueError(f"{asked.data}: train/ and val/ have different classes")
    if len(train) - asked.hold_out < asked.batch:
        but = f" but for --hold-out {asked.hold_out}" if asked.hold_out else ""
        raise ValueError(f"{folder} holds {len(train)} images{but}, less than one --batch of {asked.batch}")
    held = None
    if asked.hold_out:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(asked.seed)).tolist()
        plain = Subset(images.classes_of(folder, config), order[: asked.hold_out])  # neither cropped nor flipped
        held = DataLoader(plain, asked.batch, num_workers=asked.workers)
        train = Subset(train, order[asked.hold_out :])
    return (
        DataLoader(
            train,
            asked.batch,
            shuffle=True,
            drop_last=True,
            num_workers=asked.workers,
            pin_memory=torch.cuda.is_available(),
        ),
        held,
        images.shuffled(val, asked.batch, asked.workers, 0),
        val.classes,
    )
