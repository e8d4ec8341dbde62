"""The weights of a run's best epoch, so that what it loses afterwards costs nothing."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from stocnoise.checks import check_model
from stocnoise.training.checkpoints import mismatch
from stocnoise.training.states import get_model_state, is_sharded


class Kept(NamedTuple):
    """A student as it was after an epoch: parameters and buffers, on the CPU."""

    epoch: int
    model: dict[str, Tensor]


@dataclass(frozen=True)
class Best:
    """An epoch by its figures on `val_loader`, and the student as it was then."""

    epoch: int
    """Counted from 1."""
    robust_accuracy: float
    accuracy: float
    _kept: Kept | None = field(repr=False, compare=False)

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The student's parameters and buffers (σ, γ, BatchNorm's statistics) after that epoch, on the CPU.

        Raises:
            ValueError: this history does not have them.
        """
        if self._kept is None:
            raise ValueError(
                f"the weights of epoch {self.epoch} are not here: with FSDP the main process alone has them, and a "
                "history of figures, or of an epoch that an earlier version of stocnoise trained, has none"
            )
        return self._kept.model

    def restore(self, student: nn.Module) -> None:
        """Make `student`, the one that was trained or its like, what it was after that epoch.

        Raises:
            ValueError: this history does not have the weights, or `student` is another model; it is as it was then.
        """
        check_model("student", student)
        if is_sharded(student):
            raise ValueError("FSDP holds the student in shards: give restore a whole one")
        if (difference := mismatch(student.state_dict(), self.state_dict)) is not None:
            raise ValueError(f"the best epoch is of another model than this student: it {difference}")
        student.load_state_dict(self.state_dict)


def kept(epoch: int, model: nn.Module) -> Kept | None:
    """`model` as it is now, on the main process; None on the others with FSDP. Every process calls it."""
    # DDP's buffers are alike by now: the passes of validation have made them so.
    weights = get_model_state(model)
    return Kept(epoch, {name: _copied(value) for name, value in weights.items()}) if weights else None


def _copied(value: Any) -> Any:
    """On the CPU; what is no tensor is the extra state of a module of the user's."""
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else deepcopy(value)
