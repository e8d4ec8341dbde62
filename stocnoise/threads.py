"""How many threads PyTorch uses for a model on a CPU."""

from __future__ import annotations

import os

import torch
from torch import nn

SMALL = 1_000_000
"""Fewer parameters than these, and an operation is over before a second thread has begun its share."""


def choose_threads(model: nn.Module) -> str:
    """One thread for a model of fewer than `SMALL` parameters, else as many as PyTorch takes; OMP_NUM_THREADS decides.

    Threads wait for one another by spinning: on a busy machine two of them make the steps of a small model a hundred
    times slower. The choice rests on the model and not on how busy the machine is, so that a run that is started again
    rounds as it did before.

    Args:
        model: what will run on the CPU; it is only counted.

    Returns:
        What was chosen and why, for a person to read.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if os.environ.get("OMP_NUM_THREADS"):
        why = "as OMP_NUM_THREADS says"
    elif parameters < SMALL:
        torch.set_num_threads(1)
        why = f"the model has {parameters:,} parameters; OMP_NUM_THREADS says otherwise"
    else:
        why = "PyTorch's own choice; OMP_NUM_THREADS says otherwise"
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''} ({why})"
