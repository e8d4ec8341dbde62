"""What is written comes back, and a bad disk or file costs nothing but an error."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stocnoise.errors import CheckpointError
from stocnoise.training.checkpoints import Checkpoints, read, write


def tree() -> dict[str, Any]:
    tied = torch.randn(3, 4)
    return {
        "model": {"a.weight": tied, "b.weight": tied, "half": torch.randn(5).bfloat16(), "count": torch.tensor(7)},
        "state": {0: {"step": torch.tensor(3.0)}, 1: {"buffers": (torch.zeros(0), None)}},
        "numbers": [1, -2.5, 0.1 + 0.2, float("inf"), True, "text"],
        "strided": torch.arange(6.0).view(2, 3).t(),
    }


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_everything_comes_back(tmp_path: Path) -> None:
    written = tree()
    write(tmp_path / "deep" / "a.safetensors", written)
    assert_equal(read(tmp_path / "deep" / "a.safetensors"), written)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.callbacks\.0 is a object"):
        write(tmp_path / "a.safetensors", {"callbacks": [object()]})
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, tree())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            read(path)
    tensors = 8 + int.from_bytes(whole[:8], "little")
    for position in range(tensors, len(whole), 5):
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match="altered"):
            read(path)


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"not written by stocnoise\.finetune"):
        read(tmp_path / "foreign.safetensors")
    save_file({}, tmp_path / "newer.safetensors", metadata={"version": "99", "stocnoise": "{}"})
    with pytest.raises(CheckpointError, match=r"version 99.*upgrade"):
        read(tmp_path / "newer.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        read(tmp_path / "missing.safetensors")


def test_the_newest_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    (tmp_path / ".step-000000001.safetensors.77.tmp").write_bytes(b"of a killed process")
    for step in (1, 2, 10):
        checkpoints.save(step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000002.safetensors",
        "step-000000010.safetensors",
    ]
    found = checkpoints.newest()
    assert found is not None
    assert found[1] == {"step": 10}


def test_a_damaged_newest_names_the_last_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good, bad = checkpoints.save(1, {"step": 1}), checkpoints.save(2, {"step": 2})
    bad.write_bytes(bad.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=f"step-000000002.*last good one is .*{good.name}"):
        checkpoints.newest()
    assert read(good) == {"step": 1}
    assert bad.exists()


@pytest.fixture
def disk_of_100_kB() -> Iterator[None]:
    """The system refuses longer files with an error, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("disk_of_100_kB")
def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(1, {"x": torch.zeros(10)})
    with pytest.raises(CheckpointError, match=r"step-000000002.* could not be written.*Earlier checkpoints"):
        checkpoints.save(2, {"x": torch.zeros(100_000)})
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert read(good)["x"].shape == (10,)
