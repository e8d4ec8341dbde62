"""An example input as JSON, and back: shapes, dtypes and plain values, and the values of small tensors of integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise import schema
from stocnoise.errors import FileFormatError

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    )
}

_KEPT = 1024
"""So many integers or truth values keep their values: lengths, indices, masks."""

_INPUTS = 64
"""Examples that one model may have been converted with."""

_MEMORY = 2**30
"""Bytes that the tensors of the examples may take, all together."""


def encode(arguments: list[Any]) -> Any:
    """`arguments`, which are positional ones and a dict of keywords, as JSON; None if JSON cannot hold them."""
    try:
        described = _encode(arguments)
        check(described, "example")
    except (TypeError, FileFormatError, RecursionError):
        return None
    return described


def check(value: Any, field: str) -> None:
    """A `schema.Spec`: what `encode` gives for arguments, or {"inputs": several of it}, that fit into memory."""
    if isinstance(value, dict):
        schema.record({"inputs": schema.items(_check_arguments, most=_INPUTS)})(value, field)
        if not value["inputs"]:
            schema.refuse(f"{field}.inputs", "one example at least", value["inputs"])
    else:
        _check_arguments(value, field)
    # A dimension of 0 counts as 1: PyTorch multiplies strides, which must not overflow either.
    tensors = _tensors(value["inputs"] if isinstance(value, dict) else value)
    needed = sum(math.prod(size or 1 for size in shape) * dtype.itemsize for shape, dtype in tensors)
    if needed > _MEMORY:
        raise FileFormatError(f"{field} must take at most {_MEMORY / 1e9:.1f} GB, not {needed / 1e9:.3g}")


def _check_arguments(value: Any, field: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        schema.refuse(field, "a list of two, arguments and keywords", value)
    schema.items(_check)(value[0], f"{field}[0]")
    schema.record({"dict": schema.mapping(_check)})(value[1], f"{field}[1]")


def decode(value: Any, device: torch.device) -> Any:
    """What `encode` described and `check` let pass: tensors whose values were not kept are zeros."""
    if isinstance(value, list):
        return [decode(item, device) for item in value]
    if isinstance(value, dict) and "dict" in value:
        return {key: decode(item, device) for key, item in value["dict"].items()}
    if isinstance(value, dict):
        shape, dtype = value["shape"], _DTYPES[value["dtype"]]
        if "values" in value:
            return torch.tensor(value["values"], dtype=dtype, device=device).view(shape)
        return torch.zeros(shape, dtype=dtype, device=device)
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Tensor):
        described = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        counts = not (value.is_floating_point() or value.is_complex())
        # Tensors without memory, and those that only look like tensors, have no values to keep.
        if counts and value.numel() <= _KEPT and type(value) in (Tensor, nn.Parameter) and not value.is_meta:
            values = [int(entry) for entry in value.flatten().tolist()]
            if any(values):
                described["values"] = values
        return described
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(type(value).__name__)


_TENSOR = schema.record(
    {"shape": schema.items(schema.whole(0), most=64), "dtype": schema.choice(_DTYPES)},
    {"values": schema.items(schema.whole(-(2**63), 2**64 - 1), most=_KEPT)},
)


def _check(value: Any, field: str, depth: int = 1) -> None:
    """One argument: a tensor, a container or a plain value."""
    if depth > schema.DEPTH:
        raise FileFormatError(f"{field[:40]}… is nested more than {schema.DEPTH} deep")

    def deeper(value: Any, field: str) -> None:
        _check(value, field, depth + 1)

    if isinstance(value, list):
        schema.items(deeper)(value, field)
    elif isinstance(value, dict) and "dict" in value:
        schema.record({"dict": schema.mapping(deeper)})(value, field)
    elif isinstance(value, dict):
        _TENSOR(value, field)
        if "values" in value:
            _check_values(value, f"{field}.values")


def _check_values(tensor: Mapping[str, Any], field: str) -> None:
    dtype, values = _DTYPES[tensor["dtype"]], tensor["values"]
    if dtype.is_floating_point or dtype.is_complex or len(values) != math.prod(tensor["shape"]):
        schema.refuse(field, "one whole number for each entry of a tensor of whole numbers", values)
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    schema.items(schema.whole(low, high))(values, field)


def _tensors(value: Any) -> Iterator[tuple[list[int], torch.dtype]]:
    """Shape and dtype of each tensor in a description that has been checked."""
    if isinstance(value, list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict) and "dict" in value:
        for item in value["dict"].values():
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield value["shape"], _DTYPES[value["dtype"]]
