"""Run by test_distributed.py in each of two processes: checks that need a process group. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import guarded_checks
import replicated_checks
import sharded_checks
import torch
import torch.distributed as dist
from accelerate import PartialState


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    rank = PartialState(cpu=True).process_index
    results: dict[str, bool] = {}
    for check in (*replicated_checks.CHECKS, *guarded_checks.CHECKS, *sharded_checks.CHECKS):
        results |= check(folder, rank)
    dist.destroy_process_group()
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
