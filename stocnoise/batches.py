"""What a loader gives: which entry of a batch is attacked, which is the target, and what else the model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Key = str | int
BatchReader = Sequence[Key] | Callable[[Any], Any] | None
"""Entries of a batch by name or number: the attacked input, the target, and further inputs; or a function that makes
(input, target) of a batch. None: the first two of a tuple; in a dict the entry that goes by a target's name and the
only other one."""

TARGET_NAMES = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Others:
    """A model's inputs beside the attacked one, passed on as they are.

    `entries` by name (keyword arguments) or number (positions among the inputs); `attacked` is the attacked one's.
    Tensors with a row for each input follow the rows and draws that a pass is made of.
    """

    entries: Mapping[Key, Any]
    attacked: Key

    def call(self, model: nn.Module, x: Tensor, rows: Tensor | None = None, draws: int = 1) -> Any:
        """The model's answer to x (draws·B, …), `rows` of the batch (default all) `draws` times over."""
        args, kwargs = self.around(x, {key: self._follow(value, rows, draws) for key, value in self.entries.items()})
        return model(*args, **kwargs)

    def around(self, x: Tensor, entries: Mapping[Key, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments: x in its place among `entries`."""
        given: dict[Key, Any] = {**entries, self.attacked: x}
        positions = [given[key] for key in sorted(key for key in given if isinstance(key, int))]
        return tuple(positions), {key: value for key, value in given.items() if isinstance(key, str)}

    def to(self, device: torch.device) -> Others:
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in self.entries.items()}
        return Others(moved, self.attacked)

    def first(self, count: int) -> Others:
        """Those of the first `count` rows."""
        return self.at(slice(count))

    def at(self, rows: Tensor | slice) -> Others:
        """Those of some rows."""
        return Others({key: _rows(value, rows) for key, value in self.entries.items()}, self.attacked)

    def _follow(self, value: Any, rows: Tensor | None, draws: int) -> Any:
        value = value if rows is None else _rows(value, rows)
        if isinstance(value, Tensor) and value.dim() and draws > 1:
            return value.repeat(draws, *[1] * (value.dim() - 1))
        return value


def _rows(value: Any, rows: Any) -> Any:
    return value[rows] if isinstance(value, Tensor) and value.dim() else value


def check_others(others: Any) -> None:
    """TypeError unless they are `Others`, or None."""
    if not (others is None or isinstance(others, Others)):
        raise TypeError(f"others must be stocnoise.batches.Others, as batch= makes them, not {type(others).__name__}")


@contextmanager
def explained(model: nn.Module, x: Any) -> Iterator[None]:
    """Within the block, which runs `model` on x: ValueError where that fails and the weights tell why."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        if (reason := _misfit(model, x)) is not None:
            raise ValueError(reason) from error
        raise


def _misfit(model: nn.Module, x: Any) -> str | None:
    """Why a model whose forward failed could not take x, if its weights tell: another type or device."""
    weights = next(model.parameters(), None)
    if weights is None or not isinstance(x, Tensor):
        return None
    if weights.device != x.device:
        return f"the inputs are on {x.device} but the model is on {weights.device}: move one of them"
    whole = not (x.is_floating_point() or x.is_complex())
    if weights.dtype != x.dtype and not (whole and any(isinstance(part, nn.Embedding) for part in model.modules())):
        advice = "divide images by 255" if whole else f"convert them to {weights.dtype}"
        return f"the model's weights are {weights.dtype}, and it does not take inputs of type {x.dtype}: {advice}"
    return None


class Batch(NamedTuple):
    """A batch as read: the attacked input (B, …), the target (B, …), and the model's other inputs, if it has any."""

    x: Tensor
    y: Tensor
    others: Others | None = None

    def to(self, device: torch.device) -> Batch:
        others = None if self.others is None else self.others.to(device)
        return Batch(self.x.to(device, non_blocking=True), self.y.to(device, non_blocking=True), others)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How the model is called with it: by position, by keyword."""
        return ((self.x,), {}) if self.others is None else self.others.around(self.x, self.others.entries)

    def first(self, count: int) -> Batch:
        return self.at(slice(count))

    def at(self, rows: Tensor | slice) -> Batch:
        """Some of its rows."""
        return Batch(self.x[rows], self.y[rows], None if self.others is None else self.others.at(rows))


def check_reader(reader: BatchReader) -> None:
    """ValueError for what cannot say how to read a batch."""
    named = isinstance(reader, list | tuple) and len(reader) >= 2 and all(isinstance(key, str | int) for key in reader)
    if not (reader is None or callable(reader) or named):
        raise ValueError(
            'batch must name the entries of a batch, such as batch=("pixel_values", "labels"), or be a function that '
            f"makes (input, target) of one, not {reader!r}"
        )


def read_batch(batch: Any, reader: BatchReader = None) -> Batch:
    """The input, the target and the other inputs in what a loader gave.

    Raises:
        ValueError: the batch has no such entries, or they are no tensors with a row for each input.
    """
    if callable(reader):
        made = reader(batch)
        if not (isinstance(made, tuple | list) and len(made) >= 2):
            raise ValueError(f"batch= must make (input, target) of a batch, not {type(made).__name__}")
        found = Batch(*made)
    elif reader is None:
        found = _usual(batch)
    else:
        found = _named(batch, reader)
    for name, value in (("input", found.x), ("target", found.y)):
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the {name} of a batch must be a tensor, not {type(value).__name__}: say which entries of a "
                f"{type(batch).__name__} are the input and the target, batch=(…, …)"
            )
    if found.x.dim() == 0 or found.y.dim() == 0 or len(found.x) != len(found.y):
        raise ValueError(
            f"an input of shape {tuple(found.x.shape)} and a target of shape {tuple(found.y.shape)} do not have a row "
            "each for the same inputs"
        )
    return found


def _usual(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        targets = [key for key in batch if key in TARGET_NAMES]
        inputs = [key for key in batch if key not in targets]
        if len(targets) != 1 or len(inputs) != 1:
            raise ValueError(
                f"a batch with the entries {', '.join(map(repr, batch))}: say which is the input and which the target, "
                'such as batch=("pixel_values", "labels"); further names are inputs that are passed on'
            )
        return Batch(batch[inputs[0]], batch[targets[0]])
    if not (isinstance(batch, list | tuple) and len(batch) >= 2):
        raise ValueError(f"a batch must be (images, labels), not {type(batch).__name__}: batch= says how to read it")
    return Batch(batch[0], batch[1])


def _named(batch: Any, keys: Sequence[Key]) -> Batch:
    try:
        x, y, *more = (batch[key] for key in keys)
    except (LookupError, TypeError):
        has = f"the entries {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else f"{len(batch)} entries"
        raise ValueError(f"batch={tuple(keys)!r} does not fit a batch with {has}") from None
    others = Others(dict(zip(keys[2:], more, strict=True)), keys[0]) if more else None
    return Batch(x, y, others)
