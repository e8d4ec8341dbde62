"""How robust is a timm model, or the student made of it, on a folder of images?

    python examples/evaluate_timm.py --model resnet18 --data imagenet/val
    python examples/evaluate_timm.py --model resnet18 --weights student.safetensors --data imagenet/val --transfer

`--weights` takes a student written by `stocnoise.save`, such as `timm_imagenet.py` leaves it, or a checkpoint that timm
reads; without it timm's pretrained weights are loaded. `--data` has one folder of images per class, in the order of the
model's classes.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm_models import images, load, pixel_model
from torch.utils.data import DataLoader

import stocnoise


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="name of a timm model")
    parser.add_argument("--weights", help="a student, or a checkpoint; default timm's pretrained weights")
    parser.add_argument("--data", required=True, help="folder with one folder of images per class")
    parser.add_argument("--classes", type=int, help="number of classes, default the model's, a file's the folder's")
    parser.add_argument("--attacks", nargs="+", default=["bim", "pgd", "mim", "cw"])
    parser.add_argument("--eps", nargs="+", type=float, default=[1, 2, 4, 8], help="in steps of 1/255")
    parser.add_argument("--eot", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--draws", type=int, default=32, help="passes over each image when it is scored")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--transfer", action="store_true", help="also attack with images made on the pretrained model")
    parser.add_argument("--half", action="store_true", help="run under autocast to bfloat16")
    parser.add_argument("--json", help="write the report here, batch by batch")
    parser.add_argument("--plot", help="write ASR against ε here")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {} if args.classes is None else {"num_classes": args.classes}
    bare = timm.create_model(args.model, pretrained=args.weights is None or args.transfer, **settings)
    data, pretrained = images(args.data, bare), pixel_model(bare).to(device).eval()
    model = pretrained if args.weights is None else load(args.weights, args.model, args.classes or len(data.classes))

    order = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(data, args.batch, shuffle=True, generator=order, num_workers=args.workers)

    with torch.autocast(device.type, torch.bfloat16, enabled=args.half):
        report = stocnoise.evaluate(
            model.to(device).eval(),
            loader,
            args.attacks,
            [level / 255 for level in args.eps],
            eot=args.eot,
            steps=args.steps,
            draws=args.draws,
            transfer_from=pretrained if args.transfer else None,
            max_images=args.images,
            seed=args.seed,
            name=args.weights or args.model,
            path=args.json,
        )
    print(report)
    if args.plot:
        report.plot(path=args.plot)


if __name__ == "__main__":
    main()
