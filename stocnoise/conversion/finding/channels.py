"""Which dimension of a tensor is the channel, told by what the tensor was computed from.

A convolution puts its channels in dimension 1, a linear layer in the last one, whatever the shape; the result of any
other operation inherits from its input. This tells NHWC blocks from NCHW ones and tokens from sequences of channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

_TAG = "_stocnoise_channel"

_LAST = {"linear", "bilinear", "rms_norm", "embedding"}
_SECOND = {"batch_norm", "instance_norm", "group_norm"}
_CONVOLUTION = re.compile(r"conv(?:_transpose)?([123])d")
_FORGET = {"matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention", "baddbmm", "mm", "addmm"}
_PERMUTE = {"permute"}
_SWAP = {"transpose", "swapaxes", "swapdims", "transpose_"}


def channel_dim(x: Tensor) -> int:
    """The channel dimension of x, from 0; by convention where nothing is known of its origin."""
    known = getattr(x, _TAG, None)
    if known is not None and known < x.dim():
        return int(known)
    return {1: 0, 3: 2}.get(x.dim(), 1)


def mark_output(name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
    """Note the channel dimension of what the function `name` returned."""
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    for y in outputs:
        if isinstance(y, Tensor):
            dim = _infer(name, args, kwargs, y)
            if dim is not None or hasattr(y, _TAG):
                setattr(y, _TAG, dim)


def _infer(name: str, args: Sequence[Any], kwargs: dict[str, Any], y: Tensor) -> int | None:
    if name in _LAST:
        return y.dim() - 1
    if name in _SECOND:
        return 1
    if (convolution := _CONVOLUTION.fullmatch(name)) is not None:
        return y.dim() - 1 - int(convolution[1])
    if name == "layer_norm" and len(args) > 1 and len(args[1]) == 1:
        return y.dim() - 1
    if name in _FORGET:
        return None
    x = _first_marked(args)
    if x is None:
        return None
    channel: int = getattr(x, _TAG)
    if name in _PERMUTE:
        order = kwargs.get("dims", args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:])
        return [d % x.dim() for d in order].index(channel)
    if name in _SWAP and len(args) == 3:
        a, b = args[1] % x.dim(), args[2] % x.dim()
        return {a: b, b: a}.get(channel, channel)
    if name == "movedim" and isinstance(args[1], int):
        order = [d for d in range(x.dim()) if d != args[1] % x.dim()]
        order.insert(args[2] % x.dim(), args[1] % x.dim())
        return order.index(channel)
    return _follow(x, channel, y)


def _first_marked(args: Sequence[Any]) -> Tensor | None:
    for arg in args:
        if isinstance(arg, Tensor) and getattr(arg, _TAG, None) is not None:
            return arg
        if isinstance(arg, (tuple, list)) and (found := _first_marked(arg)) is not None:
            return found
    return None


def _follow(x: Tensor, channel: int, y: Tensor) -> int | None:
    """Where x's channel is in y, a reshaping, reduction, slice or elementwise function of x."""
    if channel >= x.dim():
        return None
    if y.dim() == x.dim() and y.shape[channel + 1 :] == x.shape[channel + 1 :]:
        return channel
    size, before, after = x.shape[channel], x.shape[:channel].numel(), x.shape[channel + 1 :].numel()
    for dim in range(y.dim()):
        if y.shape[dim] != size:
            continue
        # A reshaping keeps what lies before and behind the channel; a reduction or slice keeps its side of the shape.
        if y.shape[:dim].numel() == before and y.shape[dim + 1 :].numel() == after:
            return dim
    if y.dim() < x.dim():
        last = channel == x.dim() - 1
        dim = y.dim() - 1 if last else channel
        return dim if 0 <= dim < y.dim() and y.shape[dim] == size else None
    return channel if y.dim() == x.dim() else None
