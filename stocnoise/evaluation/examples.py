"""Single inputs to look at: before and under each attack, and what the draws answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stocnoise.batches import Batch
from stocnoise.evaluation.subject import Subject

Answers = dict[str, float]
"""Each answer that a draw gave, to the share of draws that gave it."""


@dataclass(frozen=True)
class Shown:
    """A few rows of a batch: the inputs, and what the draws answered to each."""

    x: Tensor
    answers: list[Answers]

    def at(self, row: int) -> Shown:
        """One of them, in a list of one."""
        return Shown(self.x[row : row + 1], self.answers[row : row + 1])


@dataclass(frozen=True)
class Example:
    """One input under one attack at one ε."""

    number: int
    """Among all inputs, from 0."""
    attack: str
    eps: float | None
    target: str
    clean: Tensor
    attacked: Tensor
    before: Answers
    after: Answers
    queries: int | None = None
    """That the attack had for it, where they are counted."""


@torch.no_grad()
def shown(subject: Subject, batch: Batch, rows: Tensor, draws: int, x: Tensor | None = None) -> Shown:
    """Those rows of `batch`, or of `x` in the place of its inputs, answered by fresh draws.

    PyTorch's random state is left as it was, so that looking changes no figure.
    """
    few = batch.at(rows.to(batch.x.device))
    inputs = few.x if x is None else x[rows.to(x.device)]
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        outputs = subject.outputs(few._replace(x=inputs), draws)
    task = subject.task
    if task.decide is not None and task.one_class:
        said = torch.stack([task.decide(output) for output in outputs], 1).tolist()
        answers = [{str(each): row.count(each) / draws for each in sorted(set(row))} for row in said]
    else:
        right = torch.stack([task.right(output, few.y) for output in outputs], 1).double().mean(1).tolist()
        answers = [{"right": share, "wrong": 1 - share} for share in right]
    return Shown(inputs.cpu(), answers)


def target_name(y: Tensor) -> str:
    """A target in a word: a label, or its shape."""
    if y.numel() == 1:
        return f"{y.item():g}"
    return str(int(y.argmax())) if y.is_floating_point() and y.dim() == 1 else f"target of shape {tuple(y.shape)}"


def examples(
    numbers: Sequence[int],
    targets: Sequence[str],
    clean: Shown,
    attacked: Mapping[tuple[str, float | None] | tuple[str, float | None, int], Shown],
    count: int,
) -> Iterator[Example]:
    """The first `count` inputs under everything in `attacked`, by attack and ε."""
    for key, found in attacked.items():
        for i in range(min(count, len(numbers))):
            yield Example(
                numbers[i],
                key[0],
                key[1],
                targets[i],
                clean.x[i],
                found.x[i],
                clean.answers[i],
                found.answers[i],
                key[2] if len(key) == 3 else None,
            )
