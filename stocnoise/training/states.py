"""The state of a model and its optimiser as whole tensors, sharded or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP (either version) holds the parameters in shards."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    # Parameters alone do not tell: after a pass without a backward one, as in validation, FSDP2 leaves some whole.
    wrapped = any(isinstance(module, FullyShardedDataParallel | FSDPModule) for module in model.modules())
    return wrapped or any(isinstance(parameter, DTensor) for parameter in model.parameters())


def check_bare(student: nn.Module) -> None:
    """ValueError if something stands around the student, or holds its weights in shards."""
    if isinstance(student, nn.DataParallel | DistributedDataParallel):
        raise ValueError(
            f"the student is wrapped in {type(student).__name__}: pass its .module, finetune wraps it itself"
        )
    if is_sharded(student):
        raise ValueError("the student is sharded already: pass it whole, and accelerator= with an FSDP plugin")


def bare_optimizer(optimizer: Any) -> Any:
    """What Accelerate has put into its own optimiser."""
    return getattr(optimizer, "optimizer", optimizer)


def get_model_state(model: nn.Module) -> dict[str, Any]:
    """The model state under the names of the bare model.

    Sharded, this is a collective and only the main process receives it.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not is_sharded(model):
        return model.state_dict()
    from torch.distributed.checkpoint import state_dict as whole

    options = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return whole.get_model_state_dict(model, options=options)


def get_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model state, optimiser state) under the names of the bare model.

    Sharded, this is a collective and only the main process receives them.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not is_sharded(model):
        return model.state_dict(), optimizer.state_dict()
    from torch.distributed.checkpoint import state_dict as whole

    options = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return whole.get_state_dict(model, optimizer, options=options)


def set_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    """Take back what `get_states` gave; every process holds it. ValueError if it is of another optimiser."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not is_sharded(model):
        optimizer.load_state_dict(optimizer_state)
        model.load_state_dict(model_state)
        return
    from torch.distributed.checkpoint import state_dict as whole

    whole.set_state_dict(
        model,
        optimizer,
        model_state_dict=model_state,
        optim_state_dict=optimizer_state,
        options=whole.StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
