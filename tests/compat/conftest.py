"""Hugging Face's libraries ask for a package `kernels`, and from the root of this repository find a folder of ours."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]

if not any((Path(place) / "kernels").is_dir() for place in sys.path if place and Path(place).resolve() != _ROOT):
    sys.modules["kernels"] = None  # type: ignore[assignment]  # what is None there cannot be imported
