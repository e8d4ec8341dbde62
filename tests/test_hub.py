"""Students in a folder as on the Hugging Face Hub: what is written there, and what comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import file_models
import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import hub

MODEL = "test_resnet"  # timm's own tiny test model


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state.pop(key)) for key, value in one.state_dict().items()) and not state


@pytest.fixture(scope="module")
def student() -> nn.Module:
    torch.manual_seed(0)
    student = stocnoise.convert(stocnoise.normalized(timm.create_model(MODEL, num_classes=4)), gamma=0.05, alpha=0.25)
    stocnoise.calibrate(student, [torch.rand(4, 3, 64, 64)])
    return student


@pytest.fixture(scope="module")
def report(student: nn.Module) -> stocnoise.Report:
    data = DataLoader(TensorDataset(torch.rand(6, 3, 64, 64), torch.arange(6) % 4), 3)
    return stocnoise.evaluate(
        student, data, ["pgd"], [4 / 255, 0.5], steps=1, eot=1, draws=2, check_images=6, progress=False
    )


@pytest.fixture(scope="module")
def folder(student: nn.Module, report: stocnoise.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.save(
        student,
        tmp_path_factory.mktemp("hub") / "deep" / "student",
        teacher=f"timm/{MODEL}",
        classes=4,
        training={"objective": "at", "epochs": 3},
        report=report,
        dataset="Coloured noise",
        license="mit",
    )


def test_a_folder_is_the_student_without_any_model_given(student: nn.Module, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "student.safetensors",
        "config.json",
        "README.md",
        "report.json",
    }
    again = hub.load(folder)
    assert same(student, again)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), stocnoise.deterministic(again), stocnoise.deterministic(student):
        assert torch.equal(again.eval()(x), student.eval()(x))
    alphas = {layer.alpha for _, layer in stocnoise.stochastic_layers(again)}
    assert alphas == {0.25}


def test_normalized_around_the_student_is_the_same_folder(student: nn.Module, tmp_path: Path) -> None:
    around = stocnoise.normalized(stocnoise.convert(timm.create_model(MODEL, num_classes=4)))
    again = hub.load(hub.save(around, tmp_path, teacher=MODEL, classes=4))
    assert sorted(again.state_dict()) == sorted(around.state_dict())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Not evaluated" in card and "mean (0.485" not in card
    rows = [line.split("|")[1:4] for line in card.splitlines() if "| relu | " in line]
    assert rows and all(kind.strip() for _, kind, _ in rows)


def test_noise_on_the_input_comes_back(tmp_path: Path) -> None:
    model = stocnoise.normalized(timm.create_model(MODEL, num_classes=4))
    student = stocnoise.convert(model, input_noise=0.25)
    again = hub.load(hub.save(student, tmp_path, teacher=MODEL, classes=4))
    assert isinstance(again, stocnoise.InputNoise) and again.sigma == 0.25 and same(student, again)
    assert "noise of standard deviation 0.25 too" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_card_is_one_that_the_library_reads(student: nn.Module, folder: Path, report: stocnoise.Report) -> None:
    card = ModelCard.load(folder / "README.md")  # refuses metadata that is no YAML or incomplete
    assert card.data.library_name == "stocnoise" and card.data.license == "mit"
    assert card.data.eval_results is not None
    found = {(result.metric_name, result.metric_value) for result in card.data.eval_results}
    assert ("clean accuracy", round(report.clean.accuracy.value, 4)) in found
    assert ("robust accuracy, pgd, ε = 0.5", round(report["pgd", 0.5].robust_accuracy.value, 4)) in found
    assert {result.dataset_name for result in card.data.eval_results} == {"Coloured noise"}
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_the_card_says_teacher_noise_training_figures_and_warnings(folder: Path, report: stocnoise.Report) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"timm/{MODEL} with 4 classes" in text and "- objective: at" in text and "- epochs: 3" in text
    rows = [line for line in text.splitlines() if "| relu | " in line]
    assert len(rows) > 5 and all("| 0.05 | 0.25 |" in row for row in rows)
    assert report.warnings and all(f"- {warning}" in text for warning in report.warnings)
    asr = report["pgd", 0.5].asr
    assert f"| pgd | 0.5 | {100 * asr.value:.1f} [{100 * asr.low:.1f}, {100 * asr.high:.1f}] |" in text
    assert json.loads((folder / "report.json").read_text())["warnings"] == report.warnings


def test_a_model_of_ones_own_is_given_to_load(tmp_path: Path) -> None:
    student = stocnoise.convert(file_models.Block(), file_models.EXAMPLE)
    hub.save(student, tmp_path)
    assert same(student, hub.load(tmp_path, file_models.Block()))
    with pytest.raises(stocnoise.FileFormatError, match="does not name its model"):
        hub.load(tmp_path)


def test_a_second_save_leaves_no_report_of_the_first(student: nn.Module, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    hub.save(student, tmp_path / "copy", teacher=MODEL, classes=4)
    assert not (tmp_path / "copy" / "report.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "os:system"}, "has a model 'os:system'"),
        ({"teacher": 3}, "teacher must be text"),
        ({"classes": -1}, "classes must be a whole number"),
        ({"normalization": {"mean": "x", "std": 1.0}}, r"normalization\.mean"),
        ({"normalization": {"mean": [0.5], "std": [0.0]}}, "std positive"),
        ({"stocnoise": 9}, "stocnoise must be"),
        ({"code": "x"}, "'code' is not known here"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], words: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(stocnoise.FileFormatError, match=words):
        hub.load(tmp_path / "copy")


def test_wrong_calls_write_nothing(student: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean resnet50"):
        hub.save(student, tmp_path / "a", teacher="resnet500")
    with pytest.raises(ValueError, match="training must be what JSON holds"):
        hub.save(student, tmp_path / "a", training={"x": object()})
    with pytest.raises(ValueError, match="not a student made by"):
        hub.save(nn.Linear(2, 2), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(FileNotFoundError, match="no folder, and no name of a repository"):
        hub.load(tmp_path / "nowhere" / "at" / "all")


def test_push_uploads_what_save_writes_and_load_downloads_it(
    student: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is a folder here; calls are held to the signatures of the library that is installed."""
    api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
    api.create_repo.return_value.repo_id = "me/student"
    api.upload_folder.side_effect = lambda **call: (
        shutil.copytree(call["folder_path"], tmp_path / call["repo_id"]),
        mock.Mock(commit_url="the commit"),
    )[1]
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: api)
    assert hub.push(student, "student", private=True, teacher=MODEL, classes=4) == "the commit"
    assert api.create_repo.call_args.args == ("student",) and api.create_repo.call_args.kwargs["private"] is True

    download = mock.create_autospec(
        huggingface_hub.snapshot_download, side_effect=lambda name, **_: str(tmp_path / name)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert same(student, hub.load("me/student", revision="v1"))
    assert download.call_args.kwargs["revision"] == "v1"
    assert not any(
        name.endswith((".py", ".bin", ".pt", ".pkl")) for name in download.call_args.kwargs["allow_patterns"]
    )
