"""A student's folder, here or on the Hub: weights, how the model is built, the card, the report."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stocnoise import files
from stocnoise.checks import check_model, check_path, check_text, check_whole, optional
from stocnoise.conversion import conversion_of
from stocnoise.errors import FileFormatError
from stocnoise.evaluation import Report
from stocnoise.hub import config as _config
from stocnoise.hub.card import card
from stocnoise.hub.config import Config
from stocnoise.storage import replacing

STUDENT = "student.safetensors"
_FILES = [STUDENT, _config.NAME, "README.md", "report.json"]


def save(
    student: nn.Module,
    folder: str | os.PathLike[str],
    *,
    teacher: str | None = None,
    classes: int | None = None,
    training: Mapping[str, Any] | None = None,
    report: Report | Mapping[str, Any] | None = None,
    dataset: str | None = None,
    license: str | None = None,
) -> Path:
    """Write `student.safetensors`, `config.json`, `README.md` (the model card) and, of a report, `report.json`.

    Args:
        student: made by `convert`.
        folder: made if it is not there; files of these names in it are replaced, others stay.
        teacher: name of the model in timm or torchvision, so that `load` can build it; None if `load` will be given the
            model.
        classes: that the model tells apart, if not as many as its authors'.
        training: what the card shall say of the training: names and plain values.
        report: an evaluation, or its `to_dict()`; figures and warnings stand in the card.
        dataset: what the evaluation's images are; with it, the figures stand in the card's metadata too.
        license: of the weights, as the Hub calls it: "mit", "apache-2.0", ….

    Returns:
        The folder.

    Raises:
        ValueError: `student` cannot be saved (see `stocnoise.save`), nobody knows `teacher`, or `training` holds what
            JSON cannot.
        ImportError: huggingface_hub is not installed.
        OSError: the file system refused (full, read-only); the files of the folder are as they were.

    Example:
        >>> folder = stocnoise.hub.save(student, "student", training={"epochs": 10})
    """
    _library()
    check_model("student", student)
    check_path("folder", folder)
    for name, value in (("teacher", teacher), ("dataset", dataset), ("license", license)):
        optional(check_text, name, value)
    optional(check_whole, "classes", classes)
    for name, given in (("training", training), ("report", report)):
        if not (given is None or isinstance(given, Mapping | Report)):
            raise TypeError(f"{name} must be a dict of names and values, not {given!r}")
    conversion_of(student)  # refuses what is none before a folder is made
    config = Config.of(student, teacher, classes, training or {})
    try:
        json.dumps(config.training, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"training must be what JSON holds: {error}") from error
    figures = report.to_dict() if isinstance(report, Report) else report
    if figures is not None and not {"clean", "attacks", "settings", "warnings"} <= set(figures):
        raise ValueError(f"report must be what evaluate returned, or what Report.to_dict gives, not {figures!r}")
    described = card(student, config, figures, dataset, license)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    report_text = None if figures is None else json.dumps(figures, indent=1, allow_nan=False) + "\n"
    try:
        _write(path, student, config, str(described), report_text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{path} could not be written, and is as it was: {reason}") from error
    return path


def _write(path: Path, student: nn.Module, config: Config, card: str, report: str | None) -> None:
    """All of the folder's files: the first takes its name when the last has been written, as far as the disk goes."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path) as name:
        new = Path(name)
        files.save(student, new / STUDENT)
        config.write(new)
        for file, text in (("README.md", card), ("report.json", report)):
            if text is not None:
                with replacing(new / file) as temporary:
                    temporary.write_text(text, encoding="utf-8")
        for file in _FILES:
            if (new / file).exists():
                (new / file).replace(path / file)
            else:
                (path / file).unlink(missing_ok=True)


def push(
    student: nn.Module,
    repository: str,
    *,
    private: bool | None = None,
    message: str = "A student of stocnoise",
    **about: Any,
) -> str:
    """Upload what `save` writes to `repository` on the Hub, which is made if it is not there.

    Args:
        student: made by `convert`.
        repository: "name" or "owner/name".
        private: whether a new repository is; default as the owner's settings say.
        message: of the commit.
        about: as in `save`: teacher, classes, training, report, dataset, license.

    Returns:
        The commit's address.

    Raises:
        ValueError, ImportError: as `save`; huggingface_hub's own errors if it refuses. You log in by `hf auth login`.

    Example:
        >>> stocnoise.hub.push(student, "name", training={"epochs": 10})  # doctest: +SKIP
    """
    check_text("repository", repository)
    check_text("message", message)
    api = _library().HfApi(library_name="stocnoise")
    with tempfile.TemporaryDirectory() as folder:
        save(student, folder, **about)
        made = api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    return str(done.commit_url)


def load(
    repository: str | os.PathLike[str],
    model: nn.Module | None = None,
    example_input: Any = None,
    *,
    revision: str | None = None,
    **settings: Any,
) -> nn.Module:
    """The student in a folder, or in a repository of the Hub. Nothing is unpickled, no code of a repository runs.

    Args:
        repository: a folder that exists, or "owner/name".
        model: a model of the class and configuration that was converted; default the one that `config.json` names.
        example_input: as in `stocnoise.load`.
        revision: branch, tag or commit of the repository.
        settings: as in `stocnoise.load`: `layer`, the noise, if it is a class of your own.

    Returns:
        The student, in train mode on the CPU, as a new model is.

    Raises:
        FileFormatError: a file is altered or says what cannot be, or `config.json` names no model and none was given.
        FileNotFoundError: a file is missing.
        ImportError: huggingface_hub is not installed and `repository` is no folder.

    Example:
        >>> folder = stocnoise.hub.save(student, "student")
        >>> student = stocnoise.hub.load(folder, model)
    """
    check_path("repository", repository)
    optional(check_model, "model", model)
    optional(check_text, "revision", revision)
    folder = Path(repository)
    if not folder.is_dir():
        folder = Path(_download(str(repository), revision))
    if model is None:
        found = Config.read(folder)
        if found.teacher is None:
            raise FileFormatError(f"{repository} does not name its model: pass hub.load the model")
        model = _built(found, folder)
    return files.load(folder / STUDENT, model, example_input, **settings)


def _built(config: Config, folder: Path) -> nn.Module:
    try:
        return config.build()
    except ValueError as error:  # no such name, or figures of a normalisation that cannot be
        raise FileFormatError(f"{folder / _config.NAME}: {error}") from error


def _download(repository: str, revision: str | None) -> str:
    library = _library()
    try:
        return str(library.snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except library.errors.HFValidationError as error:
        raise FileNotFoundError(f"{repository} is no folder, and no name of a repository: {error}") from error


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError('stocnoise.hub needs huggingface_hub: pip install "stocnoise[hub]"') from error
    return huggingface_hub
