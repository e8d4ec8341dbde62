"""`inspect`: every site of a model, without making its weights."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

import torch

from stocnoise.architectures import without_memory
from stocnoise.cli.models import builder_of
from stocnoise.conversion import conversion_of, convert
from stocnoise.conversion.summary import left_lines, table
from stocnoise.errors import StocnoiseError


def add_flags(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="print every site of a model by its name, and what would be left alone or refused"
    )
    parser.add_argument("model", help="a name, such as resnet50 or torchvision/resnet50, or module:function")
    parser.add_argument("--input", type=int, nargs="+", metavar="N", help="shape of one input, such as 3 224 224")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="sites to leave alone")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    build = builder_of(options.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, about how they fill weights
        model = without_memory(build)
    example = None
    if options.input:
        example = torch.empty(2, *options.input, device=next(model.parameters()).device)
    try:
        found = conversion_of(convert(model, example, exclude=options.exclude, inplace=True))
    except StocnoiseError as error:
        print(f"stocnoise: {options.model} is refused: {error}", file=sys.stderr)
        return 1
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
