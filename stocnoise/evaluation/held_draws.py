"""Attacks that hold the noise still while they climb: they fool the one draw that they look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.evaluation.inputs import uncounted
from stocnoise.evaluation.subject import Subject
from stocnoise.undo import handles

# Where the noise chooses between two networks, as many fresh draws are alike by chance once in 512 times.
_GRADIENTS = 10


def held_draw_warnings(subject: Subject, attacks: Mapping[str, Attack], batch: Batch) -> Iterator[str]:
    """Warnings about attacks, by name, on a stochastic model."""
    for name, attack in attacks.items():
        if holds_its_draw(subject, attack, batch):
            yield (
                f"{name} takes every gradient on the same draw of the noise: it attacks one of the many classifiers "
                "that the model is, and its ASR is too low. Draw anew at every step, and average over draws (eot)"
            )


def holds_its_draw(subject: Subject, attack: Attack, batch: Batch) -> bool:
    """Whether the attack's first gradients, ten of them, all meet the same noise.

    Before each the model is asked about the batch as it stands, from the random state that the attack has put it in:
    with fresh noise it answers otherwise each time. The attack is broken off once that is known.
    """
    answers: list[Tensor] = []
    devices = [batch.x.device] if batch.x.is_cuda else []

    def looked(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not (torch.is_grad_enabled() and any(value.requires_grad for value in tensors)):
            return
        with torch.no_grad(), torch.random.fork_rng(devices):
            answers.append(ask(uncounted(module), batch.x, subject.task, batch.others))
        if len(answers) == _GRADIENTS or not _same(answers[0], answers[-1]):
            raise _KnownError

    with handles() as held, contextlib.suppress(_KnownError):
        held.append(subject.model.register_forward_pre_hook(looked, with_kwargs=True))
        subject.attack(attack, batch, subject.wanted(batch) if attack.targeted else None)
    return len(answers) >= _GRADIENTS and all(_same(answers[0], other) for other in answers)


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


class _KnownError(Exception):
    """The attack has been seen long enough."""
