"""What a run borrows and gives back: Accelerate's state of the process, the student's modes and forward, trackers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stocnoise.controls import freeze_sigma, stochastic_layers
from stocnoise.layers import StochasticActivation
from stocnoise.undo import same_modes, undone

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def accelerator_for(
    given: Accelerator | None, precision: str | None, accumulate: int, tracked: dict[str, Any]
) -> Iterator[Accelerator]:
    """The caller's Accelerator, or one for this run that leaves nothing behind.

    Accelerate keeps its state for the process: without the reset a second run could not use another precision.
    """
    if given is not None:
        yield given
        return
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    fresh = not AcceleratorState._shared_state
    # Told nothing, Accelerate sees a single process under torchrun on a machine without a GPU.
    cpu = not torch.accelerator.is_available()

    def give_back() -> None:
        if fresh:
            AcceleratorState._reset_state()

    with undone(give_back):
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate, cpu=cpu, **tracked)
        with undone(accelerator.free_memory):
            yield accelerator


@contextmanager
def modes_kept(student: nn.Module) -> Iterator[None]:
    """Put back every module's mode, and the forward that Accelerate wraps for mixed precision."""
    forward = student.__dict__.get("forward")

    def put_back() -> None:
        student.__dict__.pop("_original_forward", None)
        student.__dict__.pop("forward", None)
        if forward is not None:
            student.__dict__["forward"] = forward

    with same_modes(student), undone(put_back):
        yield


@contextmanager
def statistics_kept(student: nn.Module) -> Iterator[None]:
    """Within the block σ stands still, and sends no message; afterwards all buffers are as they were before."""
    still = freeze_sigma(student) if any(stochastic_layers(student)) else nullcontext()
    named = [(module, name) for module in student.modules() for name in module._buffers]
    before = [(module, name, module._buffers[name]) for module, name in named]
    values = [None if buffer is None else buffer.clone() for _, _, buffer in before]

    def put_back() -> None:
        with torch.no_grad():
            for (module, name, buffer), value in zip(before, values, strict=True):
                module._buffers[name] = buffer  # a forward may have put another there
                if buffer is not None and value is not None:
                    buffer.copy_(value)

    with undone(put_back), still:
        yield


def kept_in_eval(student: nn.Module) -> list[nn.Module]:
    """The modules that a user put into eval mode for good: those of a student that is not all in eval mode.

    Not the student itself, and no stochastic layer that has seen no batch: its σ of 0 would stay, and it without noise.
    """
    if not any(module.training for module in student.modules()):
        return []
    still = [module for module in student.modules() if not module.training and module is not student]
    return [module for module in still if not (isinstance(module, StochasticActivation) and _empty(module))]


def _empty(layer: StochasticActivation) -> bool:
    return layer.adaptive and int(layer.num_batches_tracked) == 0


@contextmanager
def compiled(student: nn.Module, wanted: bool) -> Iterator[None]:
    """Within the block calls of the student are compiled, if that is wanted."""
    if not wanted:
        yield
        return
    try:
        student.compile()
        yield
    finally:
        student._compiled_call_impl = None


@contextmanager
def trackers(accelerator: Accelerator, wanted: bool) -> Iterator[None]:
    """Within the block Accelerate's trackers take figures, if that is wanted."""
    if not wanted:
        yield
        return
    accelerator.init_trackers("stocnoise")
    try:
        yield
    finally:  # not `end_training`, which also ends the caller's process group
        for tracker in accelerator.trackers:
            tracker.finish()
