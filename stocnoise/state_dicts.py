"""The state of a model as a file keeps it: every tensor once, on the CPU, and what two states do not agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, on the CPU, and under which other keys it stands too (tied weights)."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), value.device)
        if value.numel() and place in first:
            aliases[key] = first[place]
        else:
            first[place] = key
            tensors[key] = value.detach().cpu().contiguous().clone()
    return tensors, aliases


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first thing that two descriptions do not agree on, or nothing."""
    for key in [*saved, *given]:
        if key not in given:
            return f"only the file has {key}"
        if key not in saved:
            return f"only the model has {key}"
        if saved[key] != given[key]:
            return f"{key} is {saved[key]} in the file and {given[key]} in the model"
    return ""


def forms(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Shapes and kinds: a model is loaded in any precision, but integers are not weights."""
    return {key: _form(value) for key, value in state.items()}


def _form(tensor: Tensor) -> str:
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    kind = tensor.dtype if whole else "complex" if tensor.is_complex() else "floating-point"
    return f"{tuple(tensor.shape)}, {kind}".replace("torch.", "")
