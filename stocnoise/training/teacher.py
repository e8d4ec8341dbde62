"""A model that is asked during a run and stays as it is."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn

from stocnoise.attacks.modes import inner
from stocnoise.checks import check_model
from stocnoise.normalization import Normalized


class Teacher:
    """A model that is asked and never changed, wherever the student stands.

    Args:
        model: the teacher.
    """

    def __init__(self, model: nn.Module) -> None:
        check_model("teacher", model)
        self.model = model
        self._moved: nn.Module | None = None

    def beside(self, student: nn.Module) -> nn.Module:
        """The model on the student's device and in its precision: itself, or else a copy."""
        place = _place(student)
        if place is None or _place(self.model) in (None, place):
            return self.model
        if self._moved is None or _place(self._moved) != place:
            self._moved = copy.deepcopy(self.model).to(*place)
        return self._moved

    def check_apart(self, student: nn.Module) -> None:
        """ValueError if it would be trained with the student."""
        own = {id(parameter) for parameter in self.model.parameters()}
        for name, parameter in student.named_parameters():
            if id(parameter) in own:
                raise ValueError(
                    f"the teacher and the student share weights ({name}), so that one would move with the other: give "
                    "copy.deepcopy(teacher)"
                )

    def __repr__(self) -> str:
        """Its class and a fingerprint of weights and normalisation, the same in every process and on every device."""
        digest = hashlib.sha256()
        state = self.model.state_dict()
        for name, module in self.model.named_modules():
            if isinstance(module, Normalized):
                state |= {f"{name}.mean": module.mean, f"{name}.std": module.std}
        for name, value in state.items():
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return f"{type(inner(self.model)).__name__} {digest.hexdigest()[:12]}"


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype] | None:
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if weights is None else (weights.device, weights.dtype)
