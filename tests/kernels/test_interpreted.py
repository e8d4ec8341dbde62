"""The tests that need Triton's interpreter, each file in a process of its own.

TRITON_INTERPRET must be set before Triton is imported, and must not be set where kernels are compiled ahead of time. To
work on one file: `TRITON_INTERPRET=1 pytest tests/kernels/interpreted/test_noise.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "kernels" / "interpreted").glob("test_*.py"))
LAYERS = ROOT / "tests" / "test_layers.py"
# At γ = 0 the kernels' GELU and its like are within 3e-7 of PyTorch's, not the same bits; ReLU is, see `test_forward`.
EXCEPT = ["-k", "not bit_for_bit"]


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="runs itself in this session")
@pytest.mark.parametrize("path", [*FILES, LAYERS], ids=lambda path: path.stem)
def test_in_the_interpreter(path: Path) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            *(EXCEPT if path == LAYERS else []),
            str(path),
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout
