"""A disk that is full while a file is written: the earlier file is as it was, nothing is left beside it, and the error
says which file."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import stocnoise
from stocnoise import hub
from stocnoise.attacks import PGD
from stocnoise.errors import CheckpointError
from stocnoise.training.checkpoints import Checkpoints
from tests.faults.operations import X, Y, loader, smoothed, student

resource = pytest.importorskip("resource")


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The system refuses to make any file longer than that, as it does on a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def full_at_last(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only when the file goes to the disk itself does it turn out that there is no room, as on a network drive."""

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@dataclass
class Writer:
    """What writes a file, or a folder of them; `where` is that file or folder."""

    write: Callable[[Path, int], Any]
    """At a path, one of two different contents."""
    where: str
    error: type[Exception] = OSError


@functools.cache
def report(number: int) -> stocnoise.Report:
    return stocnoise.evaluate(
        student(), [(X, Y)], ["pgd"], 0.1, steps=1, eot=1, draws=2, seed=number, checks=False, progress=False
    )


@functools.cache
def certificate(number: int) -> stocnoise.Certificate:
    return stocnoise.certify(smoothed(), [(X, Y)], n0=4, n=20, alpha=0.01, seed=number, progress=False)


def save(path: Path, number: int) -> None:
    made = student()
    stocnoise.set_gamma(made, 0.1 * number)
    stocnoise.save(made, path)


def save_folder(path: Path, number: int) -> None:
    made = student()
    stocnoise.set_gamma(made, 0.1 * number)
    hub.save(made, path, training={"epochs": number}, report=report(number))


def evaluate(path: Path, number: int) -> None:
    asked: dict[str, Any] = {"steps": 1, "eot": 1, "draws": 2, "checks": False, "progress": False}
    stocnoise.evaluate(student(), [(X, Y)], ["pgd"], 0.1, seed=number, path=path, **asked)


def certify(path: Path, number: int) -> None:
    stocnoise.certify(
        smoothed(), [(X, Y)], n0=4, n=20, alpha=0.01, seed=number, path=path, resume=False, progress=False
    )


def checkpoint(path: Path, number: int) -> None:
    Checkpoints(path, keep=2).save(1, {"model": {"w": torch.full((50,), float(number))}})


class Killed(stocnoise.Callback):
    """Ends the run as it begins an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_begin(self, run: Any) -> None:
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


def finetune(path: Path, number: int) -> None:
    """The first epoch, and then the other."""
    attack, callbacks = PGD(eps=0.1, steps=1), [Killed(number)]
    with contextlib.suppress(KeyboardInterrupt):
        stocnoise.finetune(
            student(), loader(), 2, "at", attack, checkpoint_dir=path, resume=True, callbacks=callbacks, progress=False
        )


WRITERS = {
    "a student": Writer(save, "student.safetensors"),
    "a student's folder": Writer(save_folder, "folder"),
    "a report": Writer(lambda path, number: report(number).save(path), "report.json"),
    "a report's page": Writer(lambda path, number: report(number).to_html(path), "report.html"),
    "a report's picture": Writer(lambda path, number: report(number).plot(path=path), "asr.png"),
    "the report of evaluate": Writer(evaluate, "report.json"),
    "a certificate": Writer(lambda path, number: certificate(number).save(path), "certificate.json"),
    "a certificate's page": Writer(lambda path, number: certificate(number).to_html(path), "certificate.html"),
    "a certificate's picture": Writer(lambda path, number: certificate(number).plot(path), "certificate.pdf"),
    "the certificate of certify": Writer(certify, "certificate.json"),
    "a checkpoint": Writer(checkpoint, "checkpoints", CheckpointError),
    "the checkpoint of finetune": Writer(finetune, "checkpoints", CheckpointError),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WRITERS[name]
    path = tmp_path / writer.where
    if name.endswith(("page", "picture")):
        pytest.importorskip("matplotlib")
    writer.write(path, 1)
    before = contents(tmp_path)
    size = max(map(len, before.values()))
    # Nearly enough, and not all but a byte: seconds are written too, and those of the second may be shorter.
    for room in (0, 100, size // 2, size - 64):
        refused(writer, path, room_for(room))
        assert contents(tmp_path) == before, f"with room for {room} bytes"
    refused(writer, path, full_at_last(monkeypatch))
    assert contents(tmp_path) == before
    writer.write(path, 2)
    if name != "the checkpoint of finetune":
        assert contents(tmp_path).keys() == before.keys()


def refused(writer: Writer, path: Path, disk: Any) -> None:
    with disk, pytest.raises(writer.error, match=path.name) as caught:
        writer.write(path, 2)
    assert "could not be written" in str(caught.value)


def test_the_folder_of_kept_batches(tmp_path: Path) -> None:
    """A batch that is done stays done."""
    asked: dict[str, Any] = {"steps": 1, "eot": 1, "draws": 2, "checks": False, "progress": False}
    call = functools.partial(
        stocnoise.evaluate, student(), loader(), ["pgd"], 0.1, path=tmp_path / "report.json", resume=True, **asked
    )
    expected = call().to_dict()
    done = contents(tmp_path)
    last = sorted(name for name in done if "batches" in name)[-1]
    (tmp_path / last).unlink()
    with room_for(100), pytest.raises(OSError, match="could not be written"):
        call()
    assert contents(tmp_path) == {name: data for name, data in done.items() if name != last}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = call().to_dict()
    assert [entry["asr"] for entry in again["attacks"]] == [entry["asr"] for entry in expected["attacks"]]
