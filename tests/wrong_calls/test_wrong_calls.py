"""Every wrong call of every public name ends in an error that names the argument, and changes nothing."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import stocnoise
from stocnoise.conversion.finding import catalog
from tests.public_names import public_calls
from tests.wrong_calls import attacks, conversion, files, measuring, mixing, noise, objectives, training
from tests.wrong_calls.table import Calls, Row
from tests.wrong_calls.unchecked import UNCHECKED
from tests.wrong_calls.world import World, differences, state

TABLE: list[Calls] = [
    *conversion.CALLS,
    *noise.CALLS,
    *attacks.CALLS,
    *training.CALLS,
    *objectives.CALLS,
    *measuring.CALLS,
    *mixing.CALLS,
    *files.CALLS,
]
PACKAGE = Path(stocnoise.__file__).parent

ROWS = [(calls, row) for calls in TABLE for row in calls.rows]


def _named(value: Any) -> str:
    return value.name if isinstance(value, Calls) else value.argument if isinstance(value, Row) else str(value)


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    before = dict(catalog._registered)
    yield
    catalog._registered.clear()
    catalog._registered.update(before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(lambda: World(tmp_path_factory.mktemp("world")))


class Kept:
    """One world for all calls that leave it as it is; what changes it gets the next a new one."""

    def __init__(self, make: Callable[[], World]) -> None:
        self.make = make
        self.world = make()

    @contextmanager
    def watched(self, changed: list[str]) -> Iterator[World]:
        """Within the block a call is made; then `changed` has the names of what is not as it was."""
        before = state(self.world)
        try:
            yield self.world
        finally:
            changed += differences(before, state(self.world))
            if changed:
                self.world = self.make()


def _raised_by_us(error: BaseException) -> bool:
    """Whether a `raise` of ours made the error, not an operation in a line of ours."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE) and (last.line or "").startswith("raise")


@pytest.mark.parametrize(("calls", "row"), ROWS, ids=_named)
def test_a_wrong_call_is_named_and_changes_nothing(
    calls: Calls, row: Row, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kept.world.folder)
    changed: list[str] = []
    with kept.watched(changed) as world, pytest.raises(Exception) as caught:
        calls.call(world, row)
    message = str(caught.value)
    assert (type(caught.value), _raised_by_us(caught.value)) == (row.error, True), f"{caught.value!r}"
    assert [word for word in row.words if word not in message] == [], message
    assert re.search(rf"\b{re.escape(row.known_as)}\b", message), message
    assert [name for name in changed if not (row.asked and name.endswith("random state"))] == []


@pytest.mark.parametrize("calls", [calls for calls in TABLE if calls.alone], ids=_named)
def test_the_call_that_rows_are_made_from_is_right(calls: Calls, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept.world.folder)
    with kept.watched([]) as world:
        calls.call(world)


def test_every_public_argument_has_a_row() -> None:
    rows = {(calls.name, row.argument) for calls, row in ROWS}
    missing = [
        (name, argument)
        for name, arguments in public_calls().items()
        for argument, parameter in arguments.items()
        if (name, argument) not in rows and not isinstance(parameter.default, bool) and not _unchecked(name, argument)
    ]
    if missing:
        pytest.fail(_advice(missing), pytrace=False)


def _advice(missing: Sequence[tuple[str, str]]) -> str:
    known = {calls.name for calls in TABLE}
    return "\n".join(
        [
            f"{len(missing)} public arguments have no wrong call in tests/wrong_calls/. In the file of their area "
            "(conversion, noise, attacks, training, objectives, measuring, mixing or files.py) add to CALLS:",
            *(
                f"  {name}: "
                + ("to its rows " if name in known else f'a Calls("{name}", lambda w: {{…a right call…}}, rows) with ')
                + f'wrong("{argument}", A_WRONG_VALUE, ITS_ERROR, "words of the message")'
                for name, argument in missing
            ),
            "table.py has rows for the usual kinds: *number(argument), *whole, *choice, *model, *function, *path, …",
            "An argument for which no value is wrong goes to UNCHECKED in unchecked.py, with the reason.",
        ]
    )


def test_what_is_not_checked_is_there() -> None:
    names = [f"{name}.{argument}" for name, arguments in public_calls().items() for argument in arguments]
    assert [entry for entry in UNCHECKED if not any(fnmatchcase(name, entry) for name in names)] == []


def test_every_row_is_of_a_public_argument() -> None:
    calls = public_calls()
    given = {(each.name, row.argument) for each, row in ROWS}
    unknown = [
        f"{name}.{argument}"
        for name, argument in given
        if argument not in calls.get(name, {}) and not _takes_more(calls.get(name, {}))
    ]
    assert unknown == []


def _takes_more(arguments: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in arguments.values())


def _unchecked(name: str, argument: str) -> bool:
    return any(fnmatchcase(f"{name}.{argument}", entry) for entry in UNCHECKED)
