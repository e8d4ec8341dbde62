"""A small model gets one thread, a large one PyTorch's own, and the environment the last word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from stocnoise.threads import choose_threads


@pytest.fixture(autouse=True)
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("width", "threads"), [(999, 1), (1000, 3)])
def test_a_small_model_gets_one_thread(width: int, threads: int) -> None:
    with torch.device("meta"):
        model = nn.Linear(1000, width, bias=False)
    assert choose_threads(model).startswith(f"{threads} CPU thread")
    assert torch.get_num_threads() == threads


def test_the_environment_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(nn.Linear(2, 2)) == "3 CPU threads (as OMP_NUM_THREADS says)"
    assert torch.get_num_threads() == 3
