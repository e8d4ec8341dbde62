"""The benchmark scripts run to their end without a GPU, so that `make gpu` cannot fail for a typing error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import aot, cpu, gpu, kernel, kernel_report


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
def test_everything_that_a_gpu_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiny sizes; every part ends well and leaves its figures in the summary."""
    if kernel.GPU:
        pytest.skip("`make gpu` runs it")
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    assert gpu.main([]) == 0
    (path,) = tmp_path.glob("*/summary.md")
    text = path.read_text()
    assert text.count("| ok, ") == len(gpu.parts(False, False, tmp_path))
    assert {"commit", "torch", "triton"} <= {line[2:].split(":")[0] for line in text.splitlines() if line[:2] == "- "}
    assert "forward-train" in text
    assert "resnet18" in text
    assert "skipped" in text


def test_what_is_left_when_it_is_cut_off() -> None:
    """After each part the summary says what was found, and what was not yet run."""
    start = dict.fromkeys(("run", "device", "commit", "torch", "triton", "processors", "capability"), "x")
    planned = gpu.parts(False, True, Path("results"))
    assert [part.name for part in planned[:3]] == ["correctness", "relu and ours", "time on the gpu"]
    assert sum(part.minutes for part in planned) <= 25
    done = [gpu.Outcome(planned[0], "FAILED (1), 0.4 min", ["FAILED test_stream"], {"clocks.sm": "1980 MHz"})]
    text = gpu.summary({**start, "clocks": {"clocks.max.sm": "1980 MHz"}}, done, planned)
    assert "| correctness | FAILED (1), 0.4 min | 1980 MHz | - |" in text
    assert "FAILED test_stream" in text
    assert text.count("not yet run") == len(planned) - 1


def test_a_comparison_says_whether_the_goal_is_met() -> None:
    same = {
        "shape": [256, 256, 56, 56], "activation": "relu", "dtype": "bfloat16", "channels_last": True,
        "pass": "forward-train", "mib": 392.0, "gb_s": 3000.0, "of_copy": 97.0,
    }  # fmt: skip
    times = {"clone": 0.27, "relu": 0.27, "ours": 0.29, "eager": 1.16}
    line = kernel_report.line([{**same, "implementation": name, "ms": ms} for name, ms in times.items()])
    assert line.endswith("met")
    assert "1.074" in line
    assert "4.0" in line
    times["ours"] = 0.30
    line = kernel_report.line([{**same, "implementation": name, "ms": ms} for name, ms in times.items()])
    assert line.endswith("MISSED (goal 1.10)")
    assert "failed" in kernel_report.line([{**same, "implementation": "relu", "ms": 0.27}])


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles under TRITON_INTERPRET")
def test_aot_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(aot, "cases", lambda: iter([("forward-train", "relu", "bf16", "nchw")]))
    for target in ("sm_90", "gfx942"):
        aot.main(["--json", "--target", target, "--save", str(tmp_path)])
        row = json.loads(capsys.readouterr().out)
        assert row.keys() >= {
            "kernel", "dtype", "layout", "target", "file", "tile", "num_warps", "instructions_per_element",
            "registers", "spills", "load_bits", "store_bits", "barriers", "loop_barriers", "bytes_per_element",
        }  # fmt: skip
        assert (tmp_path / row["file"]).stat().st_size > 1000
    aot.main(["--target", "sm_90"])
    assert "forward-train-relu" in capsys.readouterr().out


@pytest.mark.slow
def test_the_layer_on_a_cpu_under_a_condition() -> None:
    lines = cpu.condition(1, busy=True, capability="default", shape=(2, 3, 8, 8), turns=2)
    assert [(line["mode"], line["name"]) for line in lines] == [
        (mode, name) for mode in ("train", "eval") for name in ("obvious", "stocnoise", "torch.relu")
    ]
    assert all(low <= middle <= high for low, middle, high in (line["ms"] for line in lines))
