"""What every program at a scale is asked: the scale, its data, seeds and folder; and how its work begins."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from examples.paper import scale, units


def arguments(parser: argparse.ArgumentParser, seeds: list[int] | None = None) -> None:
    """Add them to the parser; without `seeds` the scale's own are the default."""
    parser.add_argument("scale", help="name of a scale of examples/paper, or a TOML file")
    parser.add_argument("--data", type=Path, default=Path("data"), help="torchvision's root, or the folder of images")
    parser.add_argument("--teacher", type=Path, help="take these weights (safetensors) instead of training a teacher")
    default = "the scale's" if seeds is None else " ".join(map(str, seeds))
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help=f"default {default}")
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="networks and checkpoints")


def chosen(parser: argparse.ArgumentParser, given: argparse.Namespace) -> scale.Scale:
    """The scale that was asked for, with the seeds that were; otherwise the program ends, and says why."""
    try:
        found = scale.load(given.scale)
    except ValueError as error:
        parser.error(str(error))
    return dataclasses.replace(found, seeds=tuple(given.seeds or found.seeds))


def begin(parser: argparse.ArgumentParser, given: argparse.Namespace, found: scale.Scale) -> None:
    """See that the folder holds nothing of other settings, and put the teacher there if one was given."""
    try:
        units.keep_apart(found, given.work)
        if given.teacher:
            units.take_teacher(given.teacher, found, given.data, given.work)
    except ValueError as error:
        parser.error(str(error))
