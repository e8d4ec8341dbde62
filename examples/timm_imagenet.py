"""A pretrained timm model becomes a stochastic one that withstands attacks, on any folder of images.

    python examples/timm_imagenet.py --data imagenet --model resnet18 --out runs/resnet18
    accelerate launch examples/timm_imagenet.py --data imagenet --model resnet50 --out runs/resnet50 --precision bf16

`--data` holds train/ and val/, each with one folder of images per class. If the model has another number of classes, it
gets a new head, which is trained first, on clean images. Killed, the same command goes on. Writes the student
(student.safetensors), the history of its training (history.png) and the evaluation (report.json) to `--out`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from timm_models import images, pixel_model
from torch import nn
from torch.utils.data import DataLoader

import stocnoise


def folders(data: Path, model: nn.Module, batch: int, workers: int) -> tuple[DataLoader, DataLoader]:
    """Training and validation images."""
    train = images(data / "train", model, is_training=True, auto_augment=None, re_prob=0.0)
    val = images(data / "val", model)
    if train.classes != val.classes:
        raise SystemExit(f"{data}: train/ and val/ have different classes")
    on_gpu = torch.cuda.is_available()
    return (
        DataLoader(train, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=on_gpu),
        DataLoader(val, batch, shuffle=True, generator=torch.Generator().manual_seed(0), num_workers=workers),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet18", help="name of a timm model")
    parser.add_argument("--random", action="store_true", help="random weights instead of pretrained ones")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--head-epochs", type=int, default=2, help="of a new head, on clean images")
    parser.add_argument("--batch", type=int, default=128, help="images on each device")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--eps", type=float, default=4, help="in steps of 1/255")
    parser.add_argument("--steps", type=int, default=3, help="of PGD in training")
    parser.add_argument("--gamma", type=float, default=0.1, help="the noise at the end")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default=None)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--images", type=int, default=1000, help="to evaluate on")
    parser.add_argument("--attack-steps", type=int, default=20, help="of the attacks of the evaluation")
    parser.add_argument("--eot", type=int, default=8, help="draws of the noise for each of their gradients")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    bare = timm.create_model(args.model, pretrained=not args.random)
    train, val = folders(args.data, bare, args.batch, args.workers)
    classes = len(train.dataset.classes)  # type: ignore[attr-defined]
    new_head = bare.num_classes != classes
    if new_head:
        torch.manual_seed(args.seed)
        bare.reset_classifier(classes)
    teacher = pixel_model(bare)
    common = {"seed": args.seed, "precision": args.precision, "resume": True}

    if new_head:
        print(f"A new head for {classes} classes.")
        head = list(bare.get_classifier().parameters())
        stocnoise.finetune(
            teacher,
            train,
            epochs=args.head_epochs,
            objective="clean",
            optimizer=torch.optim.SGD(head, args.lr, momentum=0.9),
            checkpoint_dir=args.out / "head",
            **common,
        )

    student = stocnoise.convert(teacher)
    print(stocnoise.summary(student))
    step_size = 2 * args.eps / args.steps / 255
    history = stocnoise.finetune(
        student,
        train,
        epochs=args.epochs,
        attack=stocnoise.PGD(eps=args.eps / 255, steps=args.steps, step_size=step_size),
        gamma=stocnoise.GammaSchedule(init=0.01, max=args.gamma),
        lr=args.lr,
        checkpoint_dir=args.out / "student",
        channels_last=True,
        **common,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = stocnoise.evaluate(
        student.to(device).eval(),
        val,
        ["pgd", "apgd"],
        [args.eps / 255 / 2, args.eps / 255],
        eot=args.eot,
        steps=args.attack_steps,
        max_images=args.images,
        transfer_from=teacher.to(device).eval(),
        name=f"{args.model}, student",
        seed=args.seed,
    )
    if Accelerator().is_main_process:
        stocnoise.save(student, args.out / "student.safetensors")
        history.plot(str(args.out / "history.png"))
        report.save(args.out / "report.json")
        print(report)


if __name__ == "__main__":
    main()
