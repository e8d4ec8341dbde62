"""Eight threads on one student, and processes that begin with one: what is promised of each."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stocnoise
from stocnoise import normals
from stocnoise.attacks import PGD
from tests.compat.models import Small, images, sigmas, small_student
from tests.patience import HANG

THREADS = 8


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives for 0, 1, … in threads of their own that begin together; the first exception is raised."""
    found: list[Any] = [None] * THREADS
    errors: list[BaseException] = []
    begin = threading.Barrier(THREADS)

    def run(number: int) -> None:
        begin.wait(HANG)
        try:
            found[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(4, 3, 8, 8, generator=generator) for _ in range(THREADS)]


def state_of(student: nn.Module) -> list[Any]:
    values = [value.clone() for value in student.state_dict().values()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in student.modules()]
    grads = [parameter.grad for parameter in student.parameters()]
    return [[module.training for module in student.modules()], values, hooks, grads]


def same(before: list[Any], after: list[Any]) -> bool:
    others = before[0] == after[0] and before[2:] == after[2:]
    return others and all(map(torch.equal, before[1], after[1]))


def test_the_first_draws_of_a_process_come_from_eight_threads() -> None:
    """What is made once and kept (the table of normals) is made by all at once."""
    student, given = small_student(gamma=0.5), inputs()
    normals._table.cache_clear()
    normals._counters.cache_clear()
    with torch.no_grad():
        found = in_threads(lambda number: student(given[number]))
    assert len({tuple(y.flatten().tolist()) for y in found}) == THREADS
    assert all(y.isfinite().all() for y in found)


def test_predictions_in_eight_threads() -> None:
    quiet, student, given = small_student(gamma=0.0), small_student(gamma=0.5), inputs()
    expected = [stocnoise.predict(quiet, x, 2).probabilities for x in given]
    before = state_of(student)
    found = in_threads(lambda number: [stocnoise.predict(student, given[number], 4).probabilities for _ in range(5)])
    assert same(before, state_of(student))
    assert all(torch.allclose(p.sum(1), torch.ones(4)) for several in found for p in several)
    found = in_threads(lambda number: stocnoise.predict(quiet, given[number], 2).probabilities)
    assert all(map(torch.equal, found, expected))


def test_attacks_in_eight_threads() -> None:
    """Without noise each finds what it finds alone; with it each stays in its ball; the student is as it was."""
    quiet, student, given = small_student(gamma=0.0), small_student(gamma=0.5), inputs()
    attack, y = PGD(eps=0.1, steps=3, random_start=False), torch.tensor([0, 1, 2, 3])
    expected = [attack(quiet, x, y) for x in given]
    found = in_threads(lambda number: attack(quiet, given[number], y))
    assert all(map(torch.equal, found, expected))
    before = state_of(student)
    found = in_threads(lambda number: attack(student, given[number], y))
    assert all((adversarial - x).abs().max() <= 0.1 + 1e-6 for adversarial, x in zip(found, given, strict=True))
    assert same(before, state_of(student))


def test_students_of_their_own_train_in_threads_as_each_does_alone() -> None:
    """σ of one student is for one thread at a time, as BatchNorm's statistics are; several students are independent."""

    def train(number: int) -> list[Tensor]:
        student = students[number]
        optimizer = torch.optim.SGD(student.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(student(given[number]), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
        return [*sigmas(student), *(parameter.detach().clone() for parameter in student.parameters())]

    given = inputs()
    students = [small_student(gamma=0.0, training=True) for _ in range(THREADS)]
    alone = [train(number) for number in range(THREADS)]
    students = [small_student(gamma=0.0, training=True) for _ in range(THREADS)]
    together = in_threads(train)
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one, other))


def test_sigma_stays_sound_where_one_student_trains_in_eight_threads() -> None:
    """Not promised to count every batch, but never to go astray: σ stays within what the batches have."""
    student, given = small_student(gamma=0.1, training=True), inputs()
    with torch.no_grad():
        in_threads(lambda number: [student(given[number]) for _ in range(10)])
    for sigma in sigmas(student):
        assert sigma.isfinite().all() and (sigma >= 0).all() and sigma.max() < 10


def test_conversions_take_turns() -> None:
    """Random states, warning filters and hooks belong to the process."""
    torch.manual_seed(3)
    models = [Small() for _ in range(THREADS)]
    state, filters = torch.get_rng_state(), list(warnings.filters)
    students = in_threads(lambda number: stocnoise.convert(models[number], torch.zeros(2, 3, 8, 8), check=True))
    assert torch.equal(torch.get_rng_state(), state) and warnings.filters == filters
    assert all(len(list(stocnoise.stochastic_layers(student))) == 4 for student in students)
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks
    with stocnoise.deterministic(students[0]), torch.no_grad():
        assert torch.equal(students[0].eval()(images()), models[0].eval()(images()))


class Asked(Dataset[Tensor]):
    """Asks a student in the worker: with its noise, and with a fixed draw of it."""

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            noisy = self.student(images())[0]
            with stocnoise.fixed_noise(self.student, 7):
                return torch.stack([noisy, self.student(images())[0]])


METHODS = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_make_noise_of_their_own_that_the_loaders_seed_decides(method: str) -> None:
    student = small_student(gamma=0.5)

    def rows(seed: int) -> Tensor:
        """(6, 2, 5)."""
        loader = DataLoader(
            Asked(student),
            batch_size=1,
            num_workers=2,
            multiprocessing_context=method,
            generator=torch.Generator().manual_seed(seed),
            timeout=HANG,
        )
        return torch.cat(list(loader))

    first, again, other = rows(0), rows(0), rows(1)
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 0], other[:, 0])
    assert len({tuple(row) for row in first[:, 0].tolist()}) == 6
    with torch.no_grad(), stocnoise.fixed_noise(student, 7):
        expected = student(images())[0]
    assert torch.allclose(first[:, 1], expected.expand(6, 5), rtol=1e-4, atol=1e-5)


def ask(student: nn.Module, seed: int | None, answers: Any) -> None:
    torch.set_num_threads(1)
    if seed is not None:
        torch.manual_seed(seed)
    with torch.no_grad():
        answers.put(student(images()).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_processes_of_ones_own_are_seeded_as_all_of_pytorch_is(method: str) -> None:
    """A fork begins with the random state of its parent, so two make the same noise until they are seeded."""
    student, context = small_student(gamma=0.5), multiprocessing.get_context(method)

    def answers(seeds: list[int | None]) -> list[Any]:
        queue = context.Queue()
        found = []
        for seed in seeds:  # one after the other: the queue gives them in order
            process = context.Process(target=ask, args=(student, seed, queue))
            process.start()
            found.append(queue.get(timeout=HANG))
            process.join()
            assert process.exitcode == 0
        return found

    seeded = answers([1, 1, 2])
    assert seeded[0] == seeded[1] != seeded[2]
    if method == "fork":
        first, second = answers([None, None])
        assert first == second
