"""The tutorial's cells run from the first to the last, in short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"
SHORT = "EPOCHS, STEPS, EOT = 1, 1, 2"


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tutorial chooses threads; other tests keep theirs
    cells = [cell for cell in json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        if number == 0:
            exec(SHORT, names)
    printed = capsys.readouterr().out
    assert "stochastic layers" in printed and "ANIS², EOT-2" in printed
    assert len(names["figure"].axes[0].lines) >= 4


def test_it_is_committed_without_what_it_printed() -> None:
    notebook = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and not any(cell["outputs"] or cell["execution_count"] for cell in code)
