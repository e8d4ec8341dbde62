"""Several threads with one student, and students inside the workers of a data loader."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stocnoise
from tests.compat.models import images, sigmas, small_student
from tests.patience import HANG


def test_threads_calling_one_student_at_once_get_what_each_gets_alone() -> None:
    student = small_student(gamma=0.0)
    inputs = [torch.randn(4, 3, 8, 8) for _ in range(4)]
    expected = [student(x) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(student(inputs[number]), expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_share_no_noise() -> None:
    student = small_student(gamma=0.5)
    x = images()
    found: list[Tensor] = []

    def work() -> None:
        with torch.no_grad():
            found.extend(student(x) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(y.flatten().tolist()) for y in found}) == 20


class Scored(Dataset[Tensor]):
    """A data set that asks a student in the worker."""

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.student(images())[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_a_student_works_in_the_workers_of_a_loader(method: str) -> None:
    student = small_student(gamma=0.5)
    big = torch.randn(8, 3, 64, 64)  # large enough that the parent's noise is drawn by threads, which a fork loses
    with torch.no_grad():
        student(big)
    loader = DataLoader(Scored(student), batch_size=1, num_workers=2, multiprocessing_context=method, timeout=HANG)
    rows = torch.cat(list(loader))
    assert rows.shape == (4, 5)
    assert len({tuple(row) for row in rows.tolist()}) == 4


def test_calibration_from_a_loader_with_workers() -> None:
    student = small_student()
    before = sigmas(student)
    loader = DataLoader(torch.utils.data.TensorDataset(images(8) * 3, torch.zeros(8)), batch_size=4, num_workers=1)
    stocnoise.calibrate(student, loader, batches=2)
    assert all(not torch.equal(a, b) for a, b in zip(before, sigmas(student), strict=True))
