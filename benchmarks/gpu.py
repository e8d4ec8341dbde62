"""`make gpu`: the tests that need a GPU, then the kernel benchmark, whose table comes last.

    python -m benchmarks.gpu [--full]

Uses the torch and triton that are there, and imports `stocnoise` from this checkout without installing it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def import_from_checkout() -> None:
    """`stocnoise.kernels` lies beside the package, not in it: a folder of links joins them."""
    links = Path(tempfile.mkdtemp(prefix="stocnoise-"))
    (links / "stocnoise").mkdir()
    for path in (ROOT / "stocnoise").iterdir():
        (links / "stocnoise" / path.name).symlink_to(path)
    (links / "stocnoise" / "kernels").symlink_to(ROOT / "kernels")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(links), str(ROOT), os.environ.get("PYTHONPATH", "")])


def main() -> int:
    os.chdir(ROOT)
    import_from_checkout()
    python = [sys.executable, "-P"]  # not the current folder first: PYTHONPATH decides
    tests = subprocess.run([*python, "-m", "pytest", "-m", "gpu", "-q", "tests"])
    shapes = [] if "--full" in sys.argv else ["--quick"]
    plot = ROOT / "benchmarks" / "results" / "roofline.png"
    bench = subprocess.run([*python, "-m", "benchmarks.kernel", *shapes, "--plot", str(plot)])
    return tests.returncode or bench.returncode


if __name__ == "__main__":
    raise SystemExit(main())
