"""A folder of images that a head can learn, and the command as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stocnoise.cli import main


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of one colour each: train/ with 8 images of each, val/ with 4."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label in range(3):
            (root / part / "abc"[label]).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 60, (40, 40, 3), dtype=np.uint8)
                pixels[..., label] += 180
                Image.fromarray(pixels).save(root / part / "abc"[label] / f"{i}.png")
    return root


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, which must end well; what it printed."""

    def run(*arguments: object) -> str:
        assert main([str(part) for part in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run
