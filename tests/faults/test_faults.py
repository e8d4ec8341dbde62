"""An exception, Ctrl-C or no memory at any point of an operation: models and the process are as they were."""

from __future__ import annotations

import gc
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import stocnoise
from tests.faults import operations
from tests.faults.injected import Calls, NoMemory, caught
from tests.faults.operations import OPERATIONS, Prepared
from tests.faults.process_state import differences, model_state, process_state

Operation = Callable[[Path], Prepared]
Fault = AbstractContextManager[Any]

POINTS = int(os.environ.get("STOCNOISE_FAULTS", "4"))
"""How many points of each operation are tried in each way; 0 for every place in the code and every operator."""


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """The state is compared after a garbage collection, which then looks at what is new."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes a new folder at each call; temporary files are made beside it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = iter(range(1_000_000))

    def new() -> Path:
        path = tmp_path / str(next(made))
        path.mkdir()
        return path

    return new


def assert_harmless(operation: Operation, folder: Path, fault: Fault, where: Any) -> None:
    """With the fault in it the operation leaves the process as it was, and the model as it promises."""
    prepared = operation(folder)
    model_before, before = model_state(prepared.model), process_state()

    def run() -> None:
        with fault:
            prepared.call()

    error = caught(run)
    assert differences(before, process_state(), prepared.moves) == {}, (operation.__name__, where())
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert left == [], (operation.__name__, where())
    if error is None:
        return
    if prepared.usable is not None:
        prepared.usable(prepared.model)
    else:
        assert differences(model_before, model_state(prepared.model)) == {}, (operation.__name__, where())


def chosen(points: list[int], name: str) -> list[int]:
    """A few of the points, the same in each run."""
    return sorted(points if POINTS == 0 else random.Random(name).sample(points, min(POINTS, len(points))))


def each(*others: Operation) -> Any:
    slow = {"evaluate", "strongest"}
    marks = {name: [pytest.mark.slow] for name in slow}
    params = [pytest.param(op, id=op.__name__, marks=marks.get(op.__name__, [])) for op in (*OPERATIONS, *others)]
    return pytest.mark.parametrize("operation", params)


@each()
def test_interrupted(operation: Operation, folder: Callable[[], Path]) -> None:
    """By Ctrl-C, at any place where our code calls or is called."""
    whole = Calls()
    operation(folder()).call()  # what is imported and kept for the process at the first time
    prepared = operation(folder())
    with whole.watching():
        prepared.call()
    for at in chosen(sorted(whole.first.values()), operation.__name__):
        calls = Calls(at)
        assert_harmless(operation, folder(), calls.watching(), lambda calls=calls: calls.raised_at)


@each()
@pytest.mark.parametrize("of", ["operators", "functions"])
def test_out_of_memory(operation: Operation, of: str, folder: Callable[[], Path]) -> None:
    """At the n-th operator, or function of torch: once, or from there on."""
    whole = NoMemory(None)
    operation(folder()).call()
    prepared = operation(folder())
    with whole.of(of):
        prepared.call()
    for number, at in enumerate(chosen(list(range(whole.count)), f"{operation.__name__} {of}")):
        memory = NoMemory(at, for_good=number % 2 == 1)
        assert_harmless(operation, folder(), memory.of(of), lambda at=at: f"at {of} {at}")


# Where a user's own code fails.


class OwnError(RuntimeError):
    pass


def fail(*_: Any) -> None:
    raise OwnError


@each()
def test_a_failing_hook(operation: Operation, folder: Callable[[], Path]) -> None:
    prepared = operation(folder())
    convolution = next(module for module in prepared.model.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(fail)
    before, model_before = process_state(), model_state(prepared.model)
    error = caught(prepared.call)
    runs = operation.__name__ not in ("revert", "revert_in_place", "save")
    assert (error is not None) == runs
    if runs:
        assert isinstance(error, OwnError | stocnoise.StocnoiseError) or isinstance(error.__cause__, OwnError)
        changes = {"random: torch", "random: Python", "random: NumPy"} & prepared.moves
        assert differences(before, process_state(), frozenset(changes)) == {}
        if operation is not operations.finetune:
            assert differences(model_before, model_state(prepared.model)) == {}


class FailingLoader:
    """Fails at the second batch."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        yield operations.X, operations.Y
        raise OwnError


@pytest.mark.parametrize("name", ["calibrate", "evaluate", "finetune", "certify"])
def test_a_failing_loader(name: str, folder: Callable[[], Path]) -> None:
    model = operations.smoothed() if name == "certify" else operations.student()
    calls = {
        "calibrate": lambda: stocnoise.calibrate(model, FailingLoader()),
        "evaluate": lambda: stocnoise.evaluate(
            model, FailingLoader(), ["bim"], 0.1, steps=1, eot=1, draws=2, progress=False
        ),
        "finetune": lambda: stocnoise.finetune(
            model, FailingLoader(), 1, "at", stocnoise.PGD(eps=0.1, steps=1), progress=False
        ),
        "certify": lambda: stocnoise.certify(model, FailingLoader(), n0=4, n=20, alpha=0.01, progress=False),
    }
    warm = operations.certify if name == "certify" else getattr(operations, name)
    warm(folder()).call()
    moves = getattr(operations, name)(folder()).moves
    before, model_before = process_state(), model_state(model)
    usable = operations.same_but_sigma(model)
    assert isinstance(caught(calls[name]), OwnError)
    assert differences(before, process_state(), moves) == {}
    if name == "calibrate":
        usable(model)
    elif name == "finetune":
        operations.trains(model)
    else:
        assert differences(model_before, model_state(model)) == {}


@pytest.mark.parametrize("moment", ["on_epoch_begin", "on_step_end", "on_epoch_end", "on_checkpoint"])
@pytest.mark.parametrize("error", [OwnError, KeyboardInterrupt])
def test_a_failing_callback(moment: str, error: type[BaseException], folder: Callable[[], Path]) -> None:
    """The student can be used and trained on, and the run goes on from its last checkpoint."""
    callback = stocnoise.Callback()
    once = [error]

    def act(*_: Any) -> None:
        if once:
            raise once.pop()

    setattr(callback, moment, act)
    place, model = folder(), operations.student()
    settings: dict[str, Any] = {"attack": stocnoise.PGD(eps=0.1, steps=1), "callbacks": [callback], "progress": False}

    def run() -> stocnoise.History:
        return stocnoise.finetune(model, operations.loader(), 2, checkpoint_dir=place, resume=True, **settings)

    operations.finetune(folder()).call()
    before = process_state()
    assert isinstance(caught(run), error)
    assert differences(before, process_state(), frozenset(operations.RANDOM)) == {}
    operations.trains(model)
    assert len(run()) == 2
