"""The form of the table: a right call of each public name, and what is wrong with others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.public_names import public_names
from tests.wrong_calls.world import World


@dataclass(frozen=True)
class Of:
    """A value that is made of the world when its row runs."""

    make: Callable[[World], Any]


@dataclass(frozen=True)
class Row:
    """`argument` given as `value`: an `error` of exactly this class, whose message has the argument and all `words`."""

    argument: str
    value: Any
    error: type[Exception]
    words: tuple[str, ...]
    known_as: str
    """What the message calls the argument."""
    asked: bool
    """Found out by asking the loader or the model, so that random states have moved on."""
    others: Mapping[str, Any]
    """Other arguments of this call than those of the right one."""


def wrong(
    argument: str,
    value: Any,
    error: type[Exception],
    *words: str,
    known_as: str = "",
    asked: bool = False,
    **others: Any,
) -> Row:
    return Row(argument, value, error, words, known_as or argument, asked, others)


def each(
    argument: str, values: Sequence[Any], error: type[Exception], *words: str, known_as: str = "", **others: Any
) -> list[Row]:
    """Several values that are wrong for one reason."""
    return [wrong(argument, value, error, *words, known_as=known_as, **others) for value in values]


def number(argument: str, above_zero: bool = False, **others: Any) -> list[Row]:
    """What is no finite number of at least 0, or above it."""
    values = ["0.1", True, math.nan, math.inf, [0.1], -1.0, *([0] if above_zero else [])]
    return each(argument, values, ValueError, "must be a finite number", **others)


def whole(argument: str, least: int = 1, **others: Any) -> list[Row]:
    """What is no whole number of at least `least`."""
    values = [least - 1, 1.5, "2", True, math.nan, [1]]
    return each(argument, values, ValueError, f"must be a whole number of at least {least}", **others)


def any_whole(argument: str, **others: Any) -> list[Row]:
    """What is no whole number of any sign."""
    return each(argument, [1.5, "a", True, None, math.nan], ValueError, "must be a whole number", **others)


def share(argument: str, inner: bool = False, **others: Any) -> list[Row]:
    """What is no number in [0, 1], or in (0, 1)."""
    values = ["0.1", True, math.nan, -0.1, 1.1, None, torch.tensor([0.1, 0.2]), *([0, 1] if inner else [])]
    return each(argument, values, ValueError, "must lie in", **others)


def choice(argument: str, *words: str, **others: Any) -> list[Row]:
    """What is none of the words."""
    return each(argument, ["no such", 1, True, [words[0]], np.zeros(2)], ValueError, *map(repr, words), **others)


def text(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3, True, ["a"]], TypeError, "must be text", **others)


def path(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3, True, ["a"], np.zeros(2)], TypeError, "must be a path", **others)


def model(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3, nn.ReLU, "resnet18", torch.relu], TypeError, "must be a torch.nn.Module", **others)


def tensor(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3.0, [0.5], np.zeros(3), nn.ReLU], ValueError, "must be a tensor", **others)


def function(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3, "a", nn.ReLU, [torch.relu]], TypeError, "must be a function of", **others)


def several(argument: str, **others: Any) -> list[Row]:
    return each(argument, [3, "a", nn.ReLU, torch.zeros(2, 3)], TypeError, "must be", "a list of them", **others)


def task(argument: str = "task", **others: Any) -> list[Row]:
    return each(argument, ["regression", None, 3, nn.ReLU], ValueError, "must be one of", "multiclass", **others)


def output(argument: str = "output", **others: Any) -> list[Row]:
    return each(argument, [1.5, True, ["logits"], nn.ReLU], ValueError, "a key, an index or a function", **others)


def inherited(rows: Sequence[Row]) -> list[Row]:
    """One row of each argument: enough for a class whose settings are another's, where all rows are tried."""
    return list({row.argument: row for row in reversed(rows)}.values())[::-1]


@dataclass(frozen=True)
class Calls:
    """A public name, a right call of it, and the wrong ones."""

    name: str
    """As in `public_calls`: "convert", "PGD", "hub.save", "GammaSchedule.step"."""
    right: Callable[[World], Mapping[str, Any]]
    """The arguments of a call that works, by their names; of `*args` a tuple."""
    rows: Sequence[Row]
    on: Callable[[World], Any] | None = None
    """The object that a method is called on, or a class to make in the place of an abstract one."""
    alone: bool = True
    """Whether a right call needs nothing that a test has not, such as the network."""

    def call(self, world: World, row: Row | None = None) -> None:
        """The call, all of it: a generator is emptied and a `with` block entered."""
        function = self._function(world)
        given = dict(self.right(world))
        if row is not None:
            given |= {row.argument: row.value, **row.others}
        given = {name: value.make(world) if isinstance(value, Of) else value for name, value in given.items()}
        kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        several = [name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_POSITIONAL and name in given]
        positional = [value for name in several for value in given.pop(name)]
        result = function(*positional, **given)
        if isinstance(result, AbstractContextManager) and not isinstance(result, Path):
            with result:
                return
        if isinstance(result, Iterator):
            list(result)

    def _function(self, world: World) -> Any:
        if self.on is not None:
            on = self.on(world)
            return on if isinstance(on, type) else getattr(on, self.name.rsplit(".", 1)[1])
        return public_names()[self.name]
