"""What the second forward of activation checkpointing must see again: the noise's scale of the first."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from stocnoise.ops import transformed

KEPT = 16
"""So many forwards of a layer may come before their backward passes."""


def recomputing() -> bool:
    """Whether this forward runs inside a backward pass, as the second forward of activation checkpointing does."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@dataclass(slots=True, eq=False)
class _Pass:
    seed: Tensor
    scale: Tensor
    fixed: bool
    """Whether the seed is no sign of the pass, being that of all."""
    awaited: bool = True


class Passes:
    """The latest training passes of a layer, each the seed of its noise and its scale √γ·σ.

    Checkpointing restores the random state, so a recomputation draws the seed of its first pass: by that it is found,
    on the device and without looking at values. The tensors are those of the pass itself: to note one costs nothing.
    """

    def __init__(self) -> None:
        self._latest: deque[_Pass] = deque(maxlen=KEPT)

    def note(self, seed: Tensor, scale: Tensor, fixed: bool) -> None:
        if not torch.compiler.is_compiling() and _has_value(seed):
            self._latest.append(_Pass(seed, scale, fixed))

    def sigma_and_gamma(self, seed: Tensor, fixed: bool, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor] | None:
        """σ and γ whose √γ·σ is that of the first pass that drew `seed`; None where a tracer hides a seed's value.

        Where no such pass is known and no checkpoint is at work, this is a forward of its own, as the adjoint method of
        ODE solvers makes them in its backward pass: then it is that of `sigma` and `gamma`.

        Raises:
            RuntimeError: a checkpoint is at work and there is no such pass, or with a `fixed` seed more than one. Where
                looking would synchronise a device, no such pass gives NaN instead, and so will the gradients be.
        """
        if not _has_value(seed):
            return None
        latest = [one for one in reversed(list(self._latest)) if one.fixed == fixed and one.seed.device == seed.device]
        # Selective checkpointing expects the operators of the first pass, and no others.
        with _disable_current_modes():
            own = None if _checkpointing() else gamma.sqrt() * sigma
            scale = self._only([one for one in latest if one.seed is seed], own) if fixed else _drawn(latest, seed, own)
            return scale, torch.ones((), device=scale.device)

    def _only(self, latest: list[_Pass], own: Tensor | None) -> Tensor:
        awaited = [one for one in latest if one.awaited]
        if len(awaited) > 1:
            raise RuntimeError(
                "under fixed_noise several forwards of a checkpointed layer came before a backward, all with one seed, "
                f"so they cannot be told apart: {_ADVICE}"
            )
        if not latest:
            return _otherwise(own)
        one = (awaited or latest)[0]
        one.awaited = False
        return one.scale

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        return Passes()

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()


def _drawn(latest: list[_Pass], seed: Tensor, own: Tensor | None) -> Tensor:
    if not latest:
        return _otherwise(own)
    same = torch.cat([one.seed for one in latest]) == seed
    if seed.device.type == "cpu" and not same.any():
        return _otherwise(own)
    found = torch.stack([one.scale for one in latest]).index_select(0, same.int().argmax().view(1))[0]
    return found.where(same.any(), torch.nan if own is None else own)


def _otherwise(own: Tensor | None) -> Tensor:
    if own is None:
        raise RuntimeError(_NONE)
    return own


def _checkpointing() -> bool:
    """Whether something that is called a checkpoint, PyTorch's or another's, has called what runs now."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if "checkpoint" in Path(frame.f_code.co_filename).name.lower() or "checkpoint" in frame.f_code.co_name.lower():
            return True
    return False


def _has_value(seed: Tensor) -> bool:
    return type(seed) is Tensor and not transformed()


_ADVICE = (
    "go backward after each forward, or keep the activations' outputs, with checkpoint(..., use_reentrant=False, "
    "context_fn=stocnoise.functional.checkpoint_contexts)"
)
_NONE = (
    "activation checkpointing recomputes a forward whose noise is not known any more, so its gradients would be wrong: "
    f"more than {KEPT} forwards came before their backward passes, or the checkpoint does not restore the random state "
    f"(preserve_rng_state=True, the default). Else {_ADVICE}"
)
