"""Fast paths of torch that compute an activation without calling it.

`nn.TransformerEncoderLayer` decides in `__init__` whether its activation is ReLU or GELU, and if so runs one fused
kernel in eval mode: a layer put in the activation's place would never be called, and the student would be its noiseless
teacher. `nn.TransformerEncoder` packs a padded batch into a nested tensor for that kernel, which the other path cannot
take.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from stocnoise.layers import StochasticActivation

_KEPT = "_stocnoise_fast_path"


def _switches(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each module with a fast path, and the attribute that switches it on."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            yield module, "activation_relu_or_gelu"
        elif isinstance(module, nn.TransformerEncoder):
            yield module, "use_nested_tensor"


def disable_fast_paths(model: nn.Module) -> None:
    """Switch off those that would pass by a stochastic layer."""
    for module, switch in _switches(model):
        if any(isinstance(part, StochasticActivation) for part in module.modules()) and not hasattr(module, _KEPT):
            setattr(module, _KEPT, getattr(module, switch))
            setattr(module, switch, 0)


def restore_fast_paths(model: nn.Module) -> None:
    for module, switch in _switches(model):
        if hasattr(module, _KEPT):
            setattr(module, switch, getattr(module, _KEPT))
            delattr(module, _KEPT)
