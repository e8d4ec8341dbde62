"""Where a figure comes from: commit, versions, device and its clocks."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_CLOCKS = "clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,driver_version"


def _answer(*command: str) -> str:
    """What a program prints; nothing if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def clocks() -> dict[str, str]:
    """Clocks, power, temperature and driver of the first GPU as `nvidia-smi` tells them now; empty without one."""
    if not torch.cuda.is_available():
        return {}
    answer = _answer("nvidia-smi", "-i", "0", f"--query-gpu={_CLOCKS}", "--format=csv,noheader")
    values = [value.strip() for value in answer.split(",")]
    return dict(zip(_CLOCKS.split(","), values, strict=True)) if len(values) == _CLOCKS.count(",") + 1 else {}


def origin() -> dict[str, Any]:
    """Commit, versions and device."""
    gpu = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if gpu else None
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _answer("git", "describe", "--always", "--dirty"),
        "torch": torch.__version__,
        "triton": triton,
        "device": properties.name if properties else platform.processor() or platform.machine(),
        "processors": properties.multi_processor_count if properties else 0,
        "capability": list(torch.cuda.get_device_capability()) if gpu else None,
        "clocks": clocks(),
    }
