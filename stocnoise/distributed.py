"""Statistics of the global batch when a model trains in several processes."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_moments(moments: Tensor) -> Tensor:
    """(3, C) of this rank to (W, 3, C) of all W ranks, in rank order; (1, 3, C) in a single process."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return moments.unsqueeze(0)
    gathered = moments.new_empty(dist.get_world_size(), *moments.shape)
    dist.all_gather_into_tensor(gathered, moments.contiguous())
    return gathered
