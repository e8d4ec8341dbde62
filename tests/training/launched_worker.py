"""A script as a user writes it, run by test_distributed.py under torchrun and `accelerate launch`.

Each process writes what it ended with to a file of its own.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import training_models as tiny

import stocnoise


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    student = tiny.student()
    history = tiny.finetune(student, checkpoint_dir=folder / "run", resume=True)
    rank = dist.get_rank()
    ended = {
        "processes": dist.get_world_size(),
        "sigma": [layer.sigma.tolist() for _, layer in stocnoise.stochastic_layers(student)],
        "weights": [parameter.tolist() for parameter in student.parameters()],
        "epochs": len(history),
    }
    (folder / f"{rank}.json").write_text(json.dumps(ended))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
