"""What a user asks of a guard against collapse; `watch` is one in a run."""

from __future__ import annotations

from typing import Any

from stocnoise.attacks import Attack
from stocnoise.checks import check_whole
from stocnoise.training.wording import in_words


class Guard:
    """Attacks a held batch after each epoch; an epoch that ends with less than half the best accuracy so far is undone.

    Training on one-step attacks may collapse within an epoch (catastrophic overfitting): the student comes to withstand
    them and nothing else. Then weights, σ, BatchNorm's statistics, the optimiser's state and the averaged student are
    again those from before the epoch, and from now on the training attack's `step_size` (of PGD and its relatives) and
    AWP's γ are half of what they were. The epoch is spent: γ's and the learning rate's schedules go on. A warning and
    the history (`collapsed`, `guard_accuracy`) say it. The learning rate stays: what is known to help is a short step.

    The attack and its score draw random numbers of their own. A run without a collapse is bit for bit the run without
    the guard. The state from before the epoch is kept in the memory of the CPU, and in checkpoints within an epoch, so
    FSDP is refused, whose shards make no whole state on every process.

    Args:
        batch: images and labels that are not trained on, as a loader gives them; a hundred or more, since a few right
            answers more or less must not be a collapse.
        attack: what they are attacked by. Default: PGD with 10 steps and the ε, norm and bounds of the training attack;
            with noise each gradient is a mean over 8 draws.
        limit: how often training goes on after a collapse. At the next one it stops.

    Source: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial training", ICLR 2020, whose code
    attacks one batch an epoch, and stops where accuracy falls.

    Example:
        >>> guard = stocnoise.Guard((images, labels))
        >>> attack = stocnoise.PGD.single_step()
        >>> history = stocnoise.finetune(student, loader, epochs=1, attack=attack, guard=guard, progress=False)
    """

    def __init__(self, batch: Any, attack: Attack | None = None, limit: int = 3) -> None:
        check_whole("limit", limit, least=0)
        if attack is not None and (not isinstance(attack, Attack) or attack.targeted):
            raise ValueError(f"the guard's attack must be an untargeted one, such as stocnoise.PGD(), not {attack!r}")
        self.batch = batch
        self.attack = attack
        self.limit = limit

    def __repr__(self) -> str:
        return f"Guard(attack={in_words(self.attack)}, limit={self.limit})"
