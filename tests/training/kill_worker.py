"""Run by test_resume.py in a process of its own: runs that are killed again and again against one that never was.

Children are forked, not spawned, so that importing torch is paid for once; the parent therefore runs nothing of torch
that starts threads. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - imported before the forks
import timm.utils  # noqa: F401
import torch
import training_models as tiny
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import stocnoise
from stocnoise import storage
from stocnoise.training import checkpoints


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Draws from PyTorch's and from Python's generator for every image."""

    def __init__(self) -> None:
        self.images, self.labels = tiny.data(24).tensors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = 0.02 * torch.rand(1, 6, 6) + 0.02 * random.random()
        return (self.images[i] + noise).clamp(0, 1), self.labels[i]


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    tiny.finetune(
        tiny.student(),
        DataLoader(Augmented(), batch_size=4, shuffle=True),
        epochs=4,
        objective="trades",
        ema=0.9,
        accumulate=2,
        checkpoint_dir=folder,
        checkpoint_every=1,
        resume=True,
        callbacks=[Slow()],
        val_loader=tiny.loader(8),
    )


class Slow(stocnoise.Callback):
    """Spreads the run over time, so that a kill finds it anywhere."""

    def on_step_end(self, run: Any) -> None:
        time.sleep(0.02)


def fork(folder: Path, killed_at: str | None = None) -> int:
    """Train in a child, which kills itself at a chosen call of its 5th checkpoint."""
    child = os.fork()
    if child == 0:
        try:
            if killed_at is not None:
                _kill_at(killed_at)
            train(folder)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return child


def _kill_at(name: str) -> None:
    original, calls = getattr(storage, name), 0

    def deadly(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            if name == "write":  # in the middle of the file
                temporary = arguments[0].with_name(f".{arguments[0].name}.0.tmp")
                temporary.write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **settings)

    setattr(storage, name, deadly)


def finish(child: int) -> bool:
    """Whether it came to its end; False if it was killed."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status) != 0:
        raise RuntimeError("a resumed run failed")
    return True


def end_state(folder: Path) -> Any:
    tree = checkpoints.read(checkpoints.Checkpoints(folder).paths()[-1])
    for epoch in tree["history"]:
        del epoch["seconds"]
    return tree


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    assert finish(fork(folder / "whole"))
    length = time.perf_counter() - began
    whole = end_state(folder / "whole")

    instants, left, generator = 0, 0, random.Random(seed)
    while instants < kills:
        child = fork(folder / "killed")
        time.sleep(generator.uniform(0.1, 0.6) * length)
        os.kill(child, signal.SIGKILL)
        if finish(child):  # the whole run fitted between two kills: begin another
            for path in (folder / "killed").iterdir():
                path.unlink()
            continue
        instants += 1
        left += len(list((folder / "killed").glob(".*.tmp")))
    assert finish(fork(folder / "killed"))
    results = {"random": equal(end_state(folder / "killed"), whole)}

    for name in ("write", "_to_disk", "replacing", "_digest"):
        assert not finish(fork(folder / name, killed_at=name))
        assert finish(fork(folder / name))
        results[name] = equal(end_state(folder / name), whole)
    return {"equal": results, "kills": instants, "half_written_files": left, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
