"""Fast paths of torch that compute an activation without calling it.

`nn.TransformerEncoderLayer` decides in `__init__` whether its activation is ReLU or GELU, and if so runs one fused
kernel in eval mode: a layer put in the activation's place would never be called, and the student would be its noiseless
teacher.
"""

from __future__ import annotations

from torch import nn

_KEPT = "_stocnoise_fast_path"


def disable_fast_paths(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and not hasattr(module, _KEPT):
            setattr(module, _KEPT, module.activation_relu_or_gelu)
            module.activation_relu_or_gelu = 0


def restore_fast_paths(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and hasattr(module, _KEPT):
            module.activation_relu_or_gelu = getattr(module, _KEPT)
            delattr(module, _KEPT)
