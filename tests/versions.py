"""The suite in an environment of its own, with the versions of PyTorch and its like that are asked for.

python -m tests.versions --torch 2.11 --triton 3.6 --numpy "<2.4" --quick

makes a virtual environment of this checkout with its `dev` extra under these bounds (6 GB with CUDA's libraries, in a
temporary folder, gone afterwards), says what pip chose, and runs the tests there. What follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy")


def requirement(package: str, wanted: str) -> str:
    """pip's words for 2.11 (any 2.11.x), <2.4, or ==2.11.0."""
    return f"{package}{wanted}" if wanted[0] in "<>=!~" else f"{package}=={wanted}.*"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in PACKAGES:
        parser.add_argument(f"--{package}", metavar="VERSION", help="2.11 for any 2.11.x, or bounds as pip reads them")
    parser.add_argument("--quick", action="store_true", help='without the tests marked "slow"')
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="pytest's, such as a folder of tests")
    return parser


def main() -> int:
    options = parser().parse_args()
    wanted = {package: version for package in PACKAGES if (version := getattr(options, package))}
    with tempfile.TemporaryDirectory(prefix="stocnoise-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "Scripts" if os.name == "nt" else "bin") / "python")
        bounds = [requirement(package, version) for package, version in wanted.items()]
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[dev]", *bounds], check=True)
        chosen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
        print(*(line for line in chosen.splitlines() if line.split("==")[0] in PACKAGES), flush=True)
        quick = ["-m", "not slow"] if options.quick else []
        command = [python, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *quick, *options.pytest]
        return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
