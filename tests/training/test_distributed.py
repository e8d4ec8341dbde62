"""Two processes on a CPU (gloo)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORLD = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes(tmp_path: Path) -> None:
    """σ is that of the global batch on every rank, noise differs, runs resume, names survive FSDP."""
    worker = Path(__file__).with_name("process_worker.py")
    common = {"WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": 1}
    processes = []
    for rank in range(WORLD):
        settings = common | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(worker), str(tmp_path)],
                env=os.environ | {name: str(value) for name, value in settings.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
        failed = [what for what, held in json.loads(out).items() if not held]
        assert not failed
