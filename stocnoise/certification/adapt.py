"""BatchNorm's statistics of noisy inputs: what a network needs least to bear noise that it was not trained with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stocnoise.batches import explained, read_batch
from stocnoise.checks import check_model, check_several, check_whole
from stocnoise.undo import attributes_kept, same_modes


@torch.no_grad()
def adapt_batch_norm(model: nn.Module, loader: Iterable[Any], batches: int = 16) -> None:
    """Mean and variance of every BatchNorm anew, from `batches` batches through the noise; nothing is trained.

    Each statistic is the mean over the batches. All else is in eval mode: σ of stochastic layers stands still. Modes
    and momenta are as before.

    Args:
        model: with noise on its input; changed in place.
        loader: batches (images, labels); labels are not used.
        batches: how many to use, at least 1.

    Raises:
        ValueError: no BatchNorm with running statistics, an empty loader, or `batches` below 1.

    Source: Schneider et al., NeurIPS 2020; for randomised smoothing Nandy et al., arXiv 2102.05096.

    Example:
        >>> smoothed = stocnoise.with_input_noise(model, sigma=0.25)
        >>> stocnoise.adapt_batch_norm(smoothed, loader)
    """
    check_model("model", model)
    check_several("loader", loader, "batches")
    check_whole("batches", batches)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise ValueError("this model has no BatchNorm with running statistics to adapt")
    few = [x for batch in itertools.islice(loader, batches) if len(x := read_batch(batch).x)]
    if not few:
        raise ValueError("the loader gave no batch, so there is nothing to adapt to")
    device = next(norm.running_mean.device for norm in norms if norm.running_mean is not None)
    with same_modes(model), attributes_kept("momentum", [(norm, norm.momentum) for norm in norms]):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for x in few:
            with explained(model, x := x.to(device)):
                model(x)
