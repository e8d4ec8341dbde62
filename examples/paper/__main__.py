"""The paper at one scale, from the data to the report: `python -m examples.paper digits`.

What was interrupted goes on at the next call. The scales are the TOML files in `examples/paper/scales/`: digits,
cifar10-small, cifar10-pretrained, cifar10-pretrained-long, cifar10, cifar100; a TOML file of your own may be given
instead. Results and report are written to `examples/paper/results/<scale>/`, networks and checkpoints to
`runs/paper/<scale>/`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.paper import asked, report, results, units


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.paper", description=__doc__)
    asked.arguments(parser)
    parser.add_argument("--jobs", type=int, default=1, help="units of work at once, each with its share of the cores")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--report", action="store_true", help="only write the report again, from the results")
    arguments = parser.parse_args()
    chosen = asked.chosen(parser, arguments)
    out = arguments.out / chosen.name
    if not arguments.report:
        asked.begin(parser, arguments, chosen)
        failed = units.run(chosen, arguments.data, arguments.work, arguments.jobs)
        results.collect(chosen, arguments.work, out)
        if failed:
            print(*failed, sep="\n\n", file=sys.stderr)
            sys.exit(f"{len(failed)} of the units failed; the same command tries them again")
    print(f"The report is {report.write(chosen, out)}.")


if __name__ == "__main__":
    main()
