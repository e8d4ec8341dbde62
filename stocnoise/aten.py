"""The fused operation through ATen: CPUs, and every device for which there is no Triton kernel.

What costs time on a CPU is drawing normals (see `normals`), fresh memory, and threads that wait for one another. A
large temporary is a new mapping, page-faulted on first touch: so normals are drawn part by part, and added while they
are in the cache; nothing is fresh but the result, and not even that where x may be overwritten. In a network every
operation costs several times what it does alone, its code being out of the cache, so there are few. Whether threads
share the work is found out in passing (see `_way`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stocnoise.activations import Activation, Operation
from stocnoise.normals import drawing, fill_normal, together
from stocnoise.pieces import ALONE, matrix_of
from stocnoise.quicker import Quicker


def _per_channel(v: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """View (C,) so that it broadcasts along `channel_dim` of x."""
    return v.view([-1 if d == channel_dim else 1 for d in range(x.dim())])


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@functools.cache
def _ways(threads: int, statistics: bool, size: int) -> Quicker:
    """Whether the calling thread is quicker alone, for tensors of that size in bits."""
    return Quicker()


@contextmanager
def _way(x: Tensor, statistics: bool = False) -> Iterator[Callable[[], bool]]:
    """Whether the calling thread is to go on alone, in pieces, or shares every operation with the others.

    Each operation that is shared ends with threads waiting for one another. On a quiet machine that is the quicker way;
    beside busy processes every wait takes milliseconds, and sharing took up to forty times as long as the work.
    """
    if x.device.type == "cpu" and (threads := torch.get_num_threads()) > 1 and x.numel() > ALONE:
        with _ways(threads, statistics, x.numel().bit_length()).timed(x.numel()) as alone:
            yield alone
    else:
        yield together


def _add_noise(
    x: Tensor,
    scale: Tensor,
    seed: Tensor,
    operation: Operation,
    out: Tensor,
    alone: Callable[[], bool],
    relu: bool = False,
) -> Tensor:
    """x + scale_c · z, and ReLU of it if `relu`, in `out`: x itself, or of the accumulation dtype and x's strides."""
    scale = scale.to(out.dtype)
    if operation.shared:
        row = fill_normal(torch.empty_like(out[:1], memory_format=torch.contiguous_format), int(seed.item()), alone)
        torch.add(x, row.mul_(_per_channel(scale, x, operation.channel_dim)), out=out)
        return out.relu_() if relu else out
    matrix = matrix_of(x, operation.channel_dim)
    whole = (matrix.of(x), matrix.of(out), matrix.spread(scale))
    for first, normals in drawing(out, int(seed.item()), alone):
        for block in matrix.blocks(first, normals, *whole):
            for z, given, noisy, factor in matrix.pieces(alone(), *block):
                if x.dtype == out.dtype:
                    torch.addcmul(given, z, factor, out=noisy)
                else:
                    torch.mul(z, factor, out=noisy).add_(given)
                if relu:
                    noisy.relu_()
    return out


def _moments(
    x: Tensor, channel_dim: int, scratch: Tensor | None, alone: Callable[[], bool], statistics: bool
) -> Tensor:
    """(3, C) float32: count, mean and M2 = Σ(x − mean)² of each channel of dense x; (3, 0) without `statistics`. May
    overwrite `scratch`, which has the accumulation dtype; None is fresh memory of x's.

    Of x as it is where no digits are lost so. Elsewhere about a pivot, the first element of each channel: float32 sums
    fail at |mean| ≫ std.
    """
    channels = x.shape[channel_dim] if statistics else 0
    if channels == 0 or x.numel() == 0:
        return torch.zeros(3, channels, device=x.device)
    dtype = _accumulation_dtype(x)
    if x.dtype == dtype and x.device.type == "cpu":  # elsewhere looking at the result would synchronise
        found = _count_mean_m2(x, channel_dim, alone)
        _, mean, m2 = found
        if torch.addcmul(m2, mean, mean, value=-x.numel() / channels / _TELLING).amin().item() >= 0:
            return found.float()
    pivot = x[tuple(slice(None) if d == channel_dim else 0 for d in range(x.dim()))].to(dtype)
    found = _count_mean_m2(torch.sub(x, _per_channel(pivot, x, channel_dim), out=scratch), channel_dim, alone)
    found[1] += pivot
    return found.float()


# mean² / variance up to which x as it is tells as much as differences from an element that lies 4 σ off.
_TELLING = 16.0


def _count_mean_m2(x: Tensor, channel_dim: int, alone: Callable[[], bool]) -> Tensor:
    """(3, C), of dense x, from Σx and √Σx² along its rows in memory, or by columns.

    Sums along rows are the fastest reduction there is: 0.8 ms for (64, 64, 32, 32), where `torch.std` takes 24.
    """
    matrix = matrix_of(x, channel_dim)
    rows, count = matrix.of(x), x.numel() / matrix.channels
    if not matrix.by_channel:
        mean, var = torch.ops.aten.batch_norm_update_stats(rows, None, None, 0.0)
        return torch.stack([torch.full_like(mean, count), mean, var * count])
    sums = x.new_empty(2, matrix.rows)
    for piece, total, norm in matrix.pieces(alone(), rows, *sums):
        torch.sum(piece, 1, out=total)
        torch.linalg.vector_norm(piece, dim=1, out=norm)
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64
    sums = sums.to(wide).view(2, -1, matrix.channels)
    sums[1].square_()
    found = sums.new_full((3, matrix.channels), count)
    _, mean, m2 = found
    torch.sum(sums, 1, out=found[1:])
    mean.div_(count)
    m2.addcmul_(mean, mean, value=-count)
    return found


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """x, or a copy of it, with the strides of `like`, which `empty_like` made."""
    return x if x.stride() == like.stride() else x.clone()


def perturbed(
    x: Tensor,
    sigma: Tensor,
    gamma: Tensor,
    seed: Tensor,
    operation: Operation,
    statistics: bool,
    relu: bool = False,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """x + noise in the accumulation dtype (ReLU of it if `relu`), or x itself where there is no noise; and the rest of
    what `forward` returns. In fresh memory, or in that of x, dense and of that dtype, to `overwrite` it."""
    fresh = None if overwrite else torch.empty_like(x, dtype=_accumulation_dtype(x))
    dense = x if fresh is None else _dense(x, fresh)
    scale = gamma.sqrt() * sigma
    # Elsewhere than on a CPU looking at the scale would synchronise.
    if x.numel() == 0 or (x.device.type == "cpu" and not torch.count_nonzero(scale)):
        return x, _moments(dense, operation.channel_dim, fresh, together, statistics), scale
    with _way(x, statistics) as alone:
        found = _moments(dense, operation.channel_dim, fresh, alone, statistics)
        out = dense if fresh is None else fresh
        return _add_noise(dense, scale, seed, operation, out, alone, relu), found, scale


def forward(
    x: Tensor, sigma: Tensor, gamma: Tensor, seed: Tensor, operation: Operation, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the moments of x ((3, 0) without `statistics`), and the noise's scale √γ·σ; see `functional.stoc_act`."""
    h = operation.activation
    noisy, found, scale = perturbed(x, sigma, gamma, seed, operation, statistics, relu=h.name == "relu")
    # Without noise the activation itself, bit for bit: of x in its own strides, which decide the last bit of some.
    y = noisy if h.name == "relu" and noisy is not x else h(noisy)
    return (y.clone() if y is x else y.to(x.dtype)), found, scale


_DERIVATIVE: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "leaky_relu": lambda g, u, slope: torch.ops.aten.leaky_relu_backward(g, u, slope, False),
    "gelu": lambda g, u, slope: torch.ops.aten.gelu_backward(g, u),
    # Its u³ overflows; from 100 on it is 0 or 1.
    "gelu_tanh": lambda g, u, slope: torch.ops.aten.gelu_backward(g, u.clamp_(-100.0, 100.0), approximate="tanh"),
    "silu": lambda g, u, slope: torch.ops.aten.silu_backward(g, u),
    "hardswish": lambda g, u, slope: torch.ops.aten.hardswish_backward(g, u),
}


def backward(grad: Tensor, x: Tensor, scale: Tensor, seed: Tensor, operation: Operation) -> Tensor:
    """grad · h'(x + noise), the noise drawn again from `seed`; `scale` as `forward` returned it."""
    if x.numel() == 0:
        return torch.zeros_like(x)
    scratch = torch.empty_like(x, dtype=_accumulation_dtype(x))
    with _way(x) as alone:
        noisy = _add_noise(_dense(x, scratch), scale, seed, operation, scratch, alone)
    derivative = _DERIVATIVE[operation.activation.name]
    return derivative(grad.to(noisy.dtype), noisy, operation.activation.slope).to(x.dtype)


_DERIVATIVE_AT_OUTPUT: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "relu": lambda g, y, slope: torch.ops.aten.threshold_backward(g, y, 0.0),
    "relu6": lambda g, y, slope: torch.ops.aten.hardtanh_backward(g, y, 0.0, 6.0),
    "leaky_relu": lambda g, y, slope: torch.ops.aten.leaky_relu_backward(g, y, slope, True),
}


def backward_from_output(grad: Tensor, y: Tensor, activation: Activation) -> Tensor:
    """grad · h'(x + noise) where y = h(x + noise) decides h' (`Activation.output_decides`): no noise to draw again.

    In half precision y has been rounded, and this is the gradient at the rounded y: zero where a ReLU6 was rounded up
    to 6, or a float16 down to 0.
    """
    return _DERIVATIVE_AT_OUTPUT[activation.name](grad, y, activation.slope)


def update_sigma(sigma: Tensor, before: Tensor, batches: Tensor, moments: Tensor, alpha: float) -> None:
    """See `stocnoise.functional.update_sigma`."""
    wide = torch.float32 if moments.device.type == "mps" else torch.float64  # MPS has no float64
    count, m2 = _of_all_parts(moments.to(wide))
    std = (m2 / (count - 1.0).clamp_(min=0.0)).sqrt_()
    batches.add_((std < torch.inf).any())  # false for NaN, which no element and one give
    before.copy_(sigma)
    # By as much as σ moves, in `wide`: σ is rounded once.
    sigma.add_(std.sub_(sigma).nan_to_num_(0.0, 0.0, 0.0), alpha=alpha)


def _of_all_parts(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Count and M2 of the parts (W, 3, C) together: Chan's merge of all at once; an empty part has weight zero."""
    count, mean, m2 = moments.unbind(1)
    if len(moments) == 1:  # the usual case, and worth ten small operations a layer
        return count[0], m2[0]
    total = count.sum(0)
    centre = (count * mean).sum(0) / total
    return total, (m2 + count * (mean - centre) ** 2).sum(0)
