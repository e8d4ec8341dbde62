"""The command `stocnoise`: what a conversion would do to a model, by its name, and how this machine serves it."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence

import torch

from stocnoise.architectures import UnknownModelError, builder, without_memory
from stocnoise.conversion import conversion_of, convert
from stocnoise.conversion.summary import left_lines, table
from stocnoise.doctor import diagnose
from stocnoise.errors import StocnoiseError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    0; 1 if the model is refused, or something is wrong with this machine; 2 for a name that nobody knows.
    """
    parser = argparse.ArgumentParser(prog="stocnoise", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="print every site of a timm or torchvision model, and what would be left alone or refused"
    )
    inspect.add_argument("model", help="a name, such as resnet50, timm/resnet50 or torchvision/resnet50")
    inspect.add_argument("--input", type=int, nargs="+", metavar="N", help="shape of one input, such as 3 224 224")
    inspect.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="sites to leave alone")
    inspect.add_argument("--json", action="store_true", help="print data instead of a table")
    commands.add_parser(
        "doctor",
        help="print versions and devices, which implementation serves each and why, and try it against float64",
    )
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        return _doctor()
    try:
        return _inspect(options)
    except UnknownModelError as error:
        print(f"stocnoise: {error}", file=sys.stderr)
        return 2
    except StocnoiseError as error:
        print(f"stocnoise: {options.model} is refused: {error}", file=sys.stderr)
        return 1


def _inspect(options: argparse.Namespace) -> int:
    build = builder(options.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, about how they fill weights
        model = without_memory(build)
    example = None
    if options.input:
        example = torch.empty(2, *options.input, device=next(model.parameters()).device)
    found = conversion_of(convert(model, example, exclude=options.exclude, inplace=True))
    header = ("layer", "kind", "activation", "C", "dim")
    lines = [
        (path or "(root)", site.kind, site.activation, str(site.channels), str(site.channel_dim))
        for path, site in found.layers
    ]
    if options.json:
        sites = [dict(zip(header, line, strict=True)) for line in lines]
        print(json.dumps({"model": options.model, "sites": sites, "left": [vars(item) for item in found.left]}))
    else:
        print(f"{options.model}: {len(lines)} sites", "", table(header, lines, right=3), sep="\n")
        print(*left_lines(found.left), sep="\n")
    return 0


def _doctor() -> int:
    found = diagnose()
    print(*(f"{name} {version}" for name, version in found.versions.items()), f"kernels {found.kernels}", "", sep="\n")
    lines = [
        (one.device, one.dtype, one.implementation, "wrong" if one.fault else "right", one.reason)
        for one in found.served
    ]
    print(table(("device", "dtype", "served by", "against float64", "why"), lines, right=5))
    print("", *(f"wrong: {fault}" for fault in found.faults) if found.faults else ("all is well",), sep="\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
