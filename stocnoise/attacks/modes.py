"""The state that a model is attacked in, and left in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation
from stocnoise.normalization import Normalized
from stocnoise.undo import attributes_kept, same_modes, undone

BatchNormMode = Literal["eval", "train"]


def inner(model: nn.Module) -> nn.Module:
    """The model itself, out of what it is wrapped in."""
    while True:
        if isinstance(model, Normalized | InputNoise):
            model = model.model
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def left_in_training(model: nn.Module) -> list[nn.Module]:
    """The modules that a user set to training inside a model in eval mode, as for dropout at test time."""
    model = inner(model)
    return [] if model.training else [m for m in model.modules() if m.training and not _keeps_state(m)]


def _keeps_state(module: nn.Module) -> bool:
    """Whether a pass in training mode moves statistics of the module's own."""
    return isinstance(module, StochasticActivation | _BatchNorm)


@contextlib.contextmanager
def attack_mode(model: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[None]:
    """Within the block `model` is in eval mode, its noise as it was; "train" lets BatchNorm use the batch's statistics.

    Modules that a user left in training inside a model in eval mode stay there (dropout as noise at test time).
    Afterwards every module has its own mode again and BatchNorm's buffers are untouched, also after an exception.
    """
    kept = set(left_in_training(model))
    buffers: list[tuple[nn.Module, str, Tensor]] = []

    def put_back() -> None:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer

    with same_modes(model) as modes, undone(put_back):
        for module, _ in modes:
            module.training = module in kept
            if batch_norm == "train" and isinstance(module, _BatchNorm):
                module.training = True
                # Copies stand in for the buffers: writing back would look like an in-place change to autograd.
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        buffers.append((module, name, buffer))
                        module._buffers[name] = buffer.clone()
        yield


@contextlib.contextmanager
def no_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Within the block the parameters of a compiled model are frozen: its backward pass computes all gradients or none.

    In eager mode autograd leaves out what nobody asked for, and autocast keeps its copies of trained weights alone.
    Shards of FSDP, which are no plain parameters, stay as they are: it takes over their `requires_grad` only once.
    """
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    frozen = [p for p in model.parameters() if compiled and type(p) is nn.Parameter and p.requires_grad]
    with attributes_kept("requires_grad", [(parameter, True) for parameter in frozen]):
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
