"""Two processes on a CPU (gloo), started by hand, by torchrun and by Accelerate."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_models as tiny
from patience import HANG

from stocnoise.training.checkpoints import Checkpoints, read

WORLD = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


def test_two_processes(tmp_path: Path) -> None:
    """σ is that of the global batch on every rank, noise differs, runs resume, FSDP trains as well."""
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
        outputs = [process.communicate(timeout=HANG) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
        failed = [what for what, held in json.loads(out).items() if not held]
        assert not failed


# `accelerate launch --cpu --num_processes 2` starts a single process; its other launchers need no GPU.
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", str(WORLD), "--master-port"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(WORLD), "--main_process_port"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_script_of_finetune_alone_runs_under(launcher: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("launched_worker.py")
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(free_port()), str(script), str(tmp_path)]
    # Accelerate's own configuration file, should there be one, is not this test's.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    ended = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert ended[0] == ended[1]  # σ and weights, bit for bit
    assert ended[0]["processes"] == WORLD and ended[0]["epochs"] == 2
    assert any(map(any, ended[0]["sigma"]))
    model = tiny.student(seed=1)
    model.load_state_dict(read(Checkpoints(tmp_path / "run").paths()[-1])["model"])
    assert [parameter.tolist() for parameter in model.parameters()] == ended[0]["weights"]
