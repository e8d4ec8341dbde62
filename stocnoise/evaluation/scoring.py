"""Attack success on fresh draws, with intervals that cover images and draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stocnoise.attacks.target import Target
from stocnoise.batches import Others
from stocnoise.tasks import Task
from stocnoise.tasks.multiclass import MULTICLASS

# Input elements, over all draws, whose outputs are held at once where an output is as large as its input.
_ELEMENTS_KEPT = 1 << 24


class Parts(NamedTuple):
    """Rows that are several answers each (labels, pixels): what they add to the sums over all answers, (n,) each."""

    counted: Tensor
    """Answers that count."""
    right: Tensor
    """The sum over the answers of the probability p_e that it is right."""
    right_left: Tensor
    """The same of the draws that choose nothing when the best of several attacks is chosen: the second half."""
    hits: Tensor
    """Σ_e p_e·(1 − q_e), p_e without the attack and q_e under it."""
    hits_left: Tensor
    """The same with q_e of the second half of the draws."""
    weights: Tensor
    """Σ_e p_e without the attack."""
    voted: Tensor
    """The share of answers that most draws give rightly."""
    whole: Tensor
    """(n, draws), whether all answers that count are right."""


@dataclass(frozen=True)
class Score:
    """Whether n inputs are answered rightly: by each draw of the noise (n, draws), and by the averaged predictor (n,).

    Where the task lets an answer be partly right, both are shares in [0, 1] instead of bool.
    """

    correct: Tensor
    averaged: Tensor
    parts: Parts | None = None
    """Of a task with several answers a row."""
    overlaps: Tensor | None = None
    """(n, K, 2), of a task with classes in each row: intersection and union, the mean over the draws."""
    wanted: Tensor | None = None
    """(n, draws), whether a draw gives the answer that a targeted attack wanted."""

    @property
    def p(self) -> Tensor:
        """The share of draws that are correct, (n,)."""
        return self.correct.double().mean(1)

    @property
    def vote(self) -> Tensor:
        """Whether more than half of the draws are correct, (n,); of several answers a row, the share that is."""
        return self.p > 0.5 if self.parts is None else self.parts.voted

    @property
    def counted(self) -> Tensor:
        """What each row counts in an accuracy, (n,): 1, or its number of answers."""
        return torch.ones(len(self.averaged), dtype=torch.float64) if self.parts is None else self.parts.counted

    @property
    def right(self) -> Tensor:
        """What each row adds to an accuracy, (n,)."""
        return self.p if self.parts is None else self.parts.right

    def at(self, rows: Tensor) -> Score:
        """Of some rows: their numbers, or a mask."""
        return self._each(lambda value: value[rows])

    def put(self, rows: Tensor, other: Score) -> Score:
        """With the rows of that number replaced by those of `other`, in order."""
        values = iter(other._tensors())

        def replaced(value: Tensor) -> Tensor:
            value = value.clone()
            value[rows] = next(values)
            return value

        return self._each(replaced)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Score:
        def changed(value: Any) -> Any:
            if value is None:
                return None
            return Parts(*map(change, value)) if isinstance(value, Parts) else change(value)

        return Score(*(changed(getattr(self, f.name)) for f in fields(Score)))

    def _tensors(self) -> Iterator[Tensor]:
        for f in fields(Score):
            value = getattr(self, f.name)
            if value is not None:
                yield from value if isinstance(value, Parts) else [value]

    @staticmethod
    def cat(parts: list[Score]) -> Score:
        def joined(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                return None
            if isinstance(values[0], Parts):
                return Parts(*(torch.cat(fields) for fields in zip(*values, strict=True)))
            return torch.cat(values)

        return Score(*(joined(f.name) for f in fields(Score)))


@dataclass(frozen=True)
class Asked:
    """Inputs as a model is asked about them: the targets, and the answers without an attack to compare with.

    `clean` (B, E) is the probability that each answer of a row is right without an attack; `wanted` what a targeted
    attack wants.
    """

    y: Tensor
    task: Task = MULTICLASS
    others: Others | None = None
    clean: Tensor | None = None
    wanted: Tensor | None = None


def score(model: nn.Module, x: Tensor, y: Tensor | Asked, draws: int) -> Score:
    """Ask about x `draws` times with noise that no attack has seen. The model is in the mode it is to be judged in.

    Raises:
        ValueError: targets or an output that the task does not take.
    """
    asked = y if isinstance(y, Asked) else Asked(MULTICLASS.read_target(y))
    found = []
    for rows in _portions(x, draws, asked.task):
        outputs = Target(model, x.dtype, draws, asked.task, y=asked.y, others=asked.others).outputs(x[rows], rows=rows)
        found.append(judged(outputs, asked, rows))
    return Score.cat(found)


def unit_probabilities(model: nn.Module, x: Tensor, asked: Asked, draws: int) -> Tensor | None:
    """(B, E), the share of draws that give each answer of a row rightly; None for a task of one answer a row."""
    if asked.task.units is None:
        return None
    found = []
    for rows in _portions(x, draws, asked.task):
        outputs = Target(model, x.dtype, draws, asked.task, y=asked.y, others=asked.others).outputs(x[rows], rows=rows)
        found.append(1 - torch.stack([asked.task.units(output, asked.y[rows]) for output in outputs]).double().mean(0))
    return torch.cat(found)


def _portions(x: Tensor, draws: int, task: Task) -> Iterator[Tensor]:
    """Rows to be asked about together: all, or, where an output is as large as an image, as many as memory holds."""
    rows = torch.arange(len(x), device=x.device)
    at_once = len(x) if task.units is None else max(1, _ELEMENTS_KEPT // (draws * x[0].numel()))
    yield from rows.split(at_once)


def judged(outputs: Tensor, asked: Asked, rows: Tensor) -> Score:
    """Of outputs (draws, n, …), the answers to `rows` of what is asked."""
    task, y = asked.task, asked.y[rows]
    correct = torch.stack([task.right(output, y) for output in outputs]).T
    averaged = task.right(task.average(outputs), y)
    overlaps = wanted = None
    if task.overlaps is not None:
        overlaps = torch.stack([task.overlaps(output, y) for output in outputs]).double().mean(0).cpu()
    if asked.wanted is not None:
        wanted = torch.stack([task.right(output, asked.wanted[rows]) for output in outputs]).T.cpu()
    return Score(correct.cpu(), averaged.cpu(), _parts(outputs, asked, rows), overlaps, wanted)


def _parts(outputs: Tensor, asked: Asked, rows: Tensor) -> Parts | None:
    units = asked.task.units
    if units is None:
        return None
    right = 1 - torch.stack([units(output, asked.y[rows]) for output in outputs]).double()
    q, left = right.mean(0), right[len(right) // 2 :].mean(0)
    p = q if asked.clean is None else asked.clean[rows]
    found = Parts(
        counted=(~q.isnan()).double().sum(1),
        right=q.nansum(1),
        right_left=left.nansum(1),
        hits=(p * (1 - q)).nansum(1),
        hits_left=(p * (1 - left)).nansum(1),
        weights=p.nansum(1),
        voted=(q > 0.5).double().sum(1) / (~q.isnan()).double().sum(1).clamp_min(1),
        whole=(right.nan_to_num(1.0) == 1).all(2).T,
    )
    return Parts(*(value.cpu() for value in found))
