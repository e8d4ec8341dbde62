"""torch.export and AOTInductor of a student, ONNX of the deterministic model."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch

import stocnoise
from tests.compat.models import images, small_student


def _program(student: torch.nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(student, (images(),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))


def test_an_exported_student_is_stochastic_and_takes_any_batch() -> None:
    student = small_student()
    exported = _program(student).module()
    with torch.no_grad():
        assert not torch.equal(exported(images()), exported(images()))
        assert exported(images(7)).shape == (7, 5)
        torch.manual_seed(5)
        there = exported(images())
        torch.manual_seed(5)
        assert torch.equal(there, student(images()))


def test_an_exported_student_survives_a_file() -> None:
    buffer = io.BytesIO()
    torch.export.save(_program(small_student(gamma=0.0)), buffer)
    buffer.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(buffer).module()(images()), small_student(gamma=0.0)(images()))


def test_training_is_exported_with_the_update_of_sigma() -> None:
    student = small_student(gamma=0.0, training=True)
    exported = torch.export.export(student, (images(),)).module()
    before = student.stem[2].sigma.clone()
    exported(images() * 2)
    student(images() * 2)
    torch.testing.assert_close(dict(exported.named_buffers())["stem.2.sigma"], student.stem[2].sigma)
    assert not torch.equal(before, student.stem[2].sigma)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_aot_inductor_package_runs_and_is_stochastic(tmp_path: Path) -> None:
    path = torch._inductor.aoti_compile_and_package(_program(small_student()), package_path=str(tmp_path / "s.pt2"))
    runner = torch._inductor.aoti_load_package(path)
    assert not torch.equal(runner(images()), runner(images()))


@pytest.mark.filterwarnings("ignore")
def test_onnx_holds_the_deterministic_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    model = stocnoise.revert(small_student()).eval()
    torch.onnx.export(model, (images(),), tmp_path / "m.onnx", dynamo=True)
    loaded = onnx.load(tmp_path / "m.onnx")
    (there,) = reference.ReferenceEvaluator(loaded).run(None, {loaded.graph.input[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(there), model(images()), rtol=1e-4, atol=1e-5)
