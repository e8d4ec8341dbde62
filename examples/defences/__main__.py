"""Other people's defences at one scale: `python -m examples.defences digits`.

Each is trained from the same teacher, for as many epochs, and attacked as in its paper and by `strongest`. What was
interrupted goes on at the next call. The scales are those of `examples/paper` (digits, cifar10-small, …), or a TOML
file. `--defences FILE.py` adds one of your own: see `examples/defences/defence.py` for what the file must say.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.defences import board, defence, run
from examples.paper import asked, images


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.defences", description=__doc__)
    asked.arguments(parser, seeds=[0])
    parser.add_argument("--defences", nargs="+", default=defence.names(), help="names, or files of your own")
    parser.add_argument("--images", type=int, default=100, help="test images")
    parser.add_argument("--out", type=Path, help="results, lines of JSON; default beside this file")
    parser.add_argument("--page", type=Path, help="write the table there, between its marks")
    arguments = parser.parse_args()
    chosen = asked.chosen(parser, arguments)
    try:
        defences = [defence.load(name) for name in arguments.defences]
        if arguments.page:
            board.place(arguments.page.read_text(encoding="utf-8"), chosen.name)
    except ValueError as error:
        parser.error(str(error))
    asked.begin(parser, arguments, chosen)
    split = images.load(chosen.data, arguments.data)
    out = arguments.out or board.RESULTS / f"{chosen.name}.jsonl"
    for seed in chosen.seeds:
        for each in defences:
            lines = board.add(out, run.measured(each, chosen, split, seed, arguments.images, arguments.work))
            print(f"\n{board.table(lines)}", flush=True)
    if arguments.page:
        text = board.replaced(arguments.page.read_text(encoding="utf-8"), chosen.name, board.read(out))
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
