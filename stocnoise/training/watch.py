"""A guard against collapse: robustness that an attack in training no longer sees, lost within an epoch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stocnoise.attacks import PGD, Attack
from stocnoise.attacks.base import BallAttack, check_input
from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import Target
from stocnoise.batches import Batch
from stocnoise.checks import check_number, check_whole
from stocnoise.controls import noise_sources
from stocnoise.tasks import Task
from stocnoise.training.checkpoints import mismatch
from stocnoise.training.chosen import asked_as
from stocnoise.training.guard import Guard
from stocnoise.training.randomness import random_state, seed_all, set_random_state
from stocnoise.training.states import bare_optimizer, get_states, is_sharded, set_states

if TYPE_CHECKING:
    from stocnoise.training.snapshot import RunState
    from stocnoise.training.trial import Trial

STEPS = 10
EOT = 8
"""Draws of the noise, where there is any, for each gradient of the guard's attack and for its score."""


class Watch:
    """A guard in a run: what it has seen, and the state from before the epoch.

    Args:
        guard: what was asked for.
        state: the run's, which it looks at and puts back.
        batch: the guard's, on the device.
        attack, task, seed: the run's.

    Raises:
        ValueError: FSDP holds the student in shards, there is no ε to take from the run's attack, or the batch is none
            that can be attacked.
    """

    def __init__(self, guard: Guard, state: RunState, batch: Batch, attack: Attack, task: Task, seed: int) -> None:
        if is_sharded(state.model):
            raise ValueError("guard needs whole weights on every process: it does not work with FSDP")
        self.guard = guard
        self.attack = _own_attack(guard, attack, noisy=bool(noise_sources(state.student)))
        self.best = 0.0
        """The highest accuracy of the epochs so far."""
        self.times = 0
        """How often it went back."""
        self._state = state
        self._batch = batch
        self._task = task
        self._seed = seed
        self._kept: dict[str, Any] | None = None
        self._halved = ["the training attack's step size"] if isinstance(attack, PGD) else []
        self._halved += ["AWP's gamma"] if state.perturbation is not None else []

    def check(self, trial: Trial) -> None:
        """Raise now what would end the run after its first epoch."""
        check_input(self._batch.x, self._batch.y, self.attack.bounds)
        trial.check(self._state.model, self._batch)

    @property
    def share(self) -> float:
        """What is left of the lengths of steps, on images and on weights: each collapse halves them."""
        return 0.5**self.times

    def keep(self) -> None:
        """An epoch begins: this is where a collapse within it leads back to."""
        self._kept = tree_map(_to_cpu, self._moving())

    def epoch_over(self) -> tuple[float, bool]:
        """Robust accuracy on the batch, and whether it is a collapse; then all is as before the epoch."""
        accuracy = self._measure()
        collapsed = accuracy < self.best / 2
        if collapsed:
            self._go_back(accuracy)
        self.best = max(self.best, accuracy)
        self._kept = None  # what the epoch leaves is what the next one begins with
        return accuracy, collapsed

    def _measure(self) -> float:
        """The mean over images and draws of the noise."""
        student, accelerator = self._state.student, self._state.accelerator
        x, y, others = self._batch
        given: dict[str, Any] = {} if others is None else {"others": others}
        outside = random_state(x.device)
        try:
            seed_all(self._seed, self._state.run.epoch, f"guard {accelerator.process_index}")
            adversarial = self.attack(student, x, y, **given)
            with attack_mode(student):
                outputs = Target(student, x.dtype, self.attack.eot, self._task, others=others).outputs(adversarial)
        finally:
            set_random_state(outside, x.device)
        right = torch.stack([self._task.right(output, y).float().mean() for output in outputs]).mean()
        return float(accelerator.reduce(right, "mean"))

    def _go_back(self, accuracy: float) -> None:
        state, kept = self._state, self._kept
        assert kept is not None
        optimizer = bare_optimizer(state.optimizer)
        # Its schedule goes on from the learning rate as it is now.
        going_on = optimizer.state_dict()["param_groups"]
        set_states(state.model, optimizer, kept["model"], {"state": kept["optimizer"], "param_groups": going_on})
        if state.averaged is not None:
            state.averaged.module.load_state_dict(kept["averaged"])
        if state.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            broadcast(state.buffers)  # a checkpoint holds those of the main process
        self.times += 1
        said = (
            f"epoch {state.run.epoch + 1} ended with a robust accuracy of {accuracy:.1%} on the guard's batch, less "
            f"than half of {self.best:.1%}: a collapse. The student is again as it was before the epoch"
        )
        if self.times > self.guard.limit:
            state.run.stop = True
            said += f", and training stops, since this is collapse number {self.times}"
        elif self._halved:
            said += f"; from now on {self.share:g} of what was asked: {', '.join(self._halved)}"
        warnings.warn(said, stacklevel=2)

    def _moving(self) -> dict[str, Any]:
        state = self._state
        model, optimizer = get_states(state.model, bare_optimizer(state.optimizer))
        averaged = None if state.averaged is None else state.averaged.module.state_dict()
        return {"model": model, "optimizer": optimizer["state"], "averaged": averaged}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "times": self.times, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_whole("times", state["times"], least=0)
        check_number("best", state["best"])
        kept = state["kept"]
        if kept is not None:
            difference = mismatch(self._state.student.state_dict(), kept["model"])
            if difference is not None or not isinstance(kept["optimizer"], dict):
                raise ValueError(f"kept is of another model or optimizer: {difference}")
        self.best, self.times, self._kept = state["best"], state["times"], kept


def _own_attack(guard: Guard, attack: Attack, noisy: bool) -> Attack:
    if guard.attack is not None:
        return asked_as(guard.attack, attack)
    if not isinstance(attack, BallAttack):
        raise ValueError(
            f"{attack} has no ε that the guard could take: give it an attack, Guard(batch, stocnoise.PGD(eps=8/255))"
        )
    usual = PGD(eps=attack.eps, norm=attack.norm, bounds=attack.bounds, steps=STEPS, eot=EOT if noisy else 1)
    return asked_as(usual, attack)


def shortened(attack: Attack, share: float) -> Attack:
    """The attack with steps `share` times as long, where it has steps of a length that is asked for."""
    return attack.shortened(share) if isinstance(attack, PGD) and share != 1 else attack


def _to_cpu(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
