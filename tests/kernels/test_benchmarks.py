"""The benchmark scripts run to their end without a GPU, so that `make gpu` cannot fail for a typing error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import aot, kernel, kernel_report


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles under TRITON_INTERPRET")
def test_kernel_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if kernel.GPU:
        pytest.skip("`make gpu` runs it")
    monkeypatch.setattr(kernel, "SMOKE", kernel.SMOKE[:1])
    out = tmp_path / "kernel.jsonl"
    for _ in range(2):
        kernel.main(["--out", str(out), "--plot", str(tmp_path / "roofline.png")])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * len(kernel_report.newest_run(out)) or len({row["run"] for row in rows}) == 1
    assert {"run", "commit", "torch", "triton", "device"} <= rows[0].keys()
    assert {row["implementation"] for row in rows} >= {"clone", "relu", "eager", "ours", "launch"}
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    assert "2x8x4x4" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles under TRITON_INTERPRET")
def test_aot_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(aot, "cases", lambda: iter([("forward-train", "relu", "bf16", "nchw")]))
    for target in ("sm_90", "gfx942"):
        aot.main(["--json", "--target", target, "--save", str(tmp_path)])
        row = json.loads(capsys.readouterr().out)
        assert row.keys() >= {
            "kernel", "dtype", "layout", "target", "file", "tile", "num_warps", "instructions_per_element",
            "registers", "spills", "load_bits", "store_bits",
        }  # fmt: skip
        assert (tmp_path / row["file"]).stat().st_size > 1000
    aot.main(["--target", "sm_90"])
    assert "forward-train-relu" in capsys.readouterr().out
