"""Activations h and derivatives h′ as functions of loaded float32 values, chosen by name at compile time."""

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_INV_SQRT_TAU = tl.constexpr(0.3989422804014327)
_TANH_SCALE = tl.constexpr(1.5957691216057308)  # 2·√(2/π), as ½(1 + tanh v) = sigmoid(2v)
_TANH_CUBIC = tl.constexpr(0.044715)


@triton.jit
def _clip(u, low, high):
    """Clamp u, letting NaN through as PyTorch does."""
    u = tl.maximum(u, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(u, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _sigmoid(u, FAST: tl.constexpr):
    """1 / (1 + exp(−u)); the fast division, 2 ulp, saves 6 instructions."""
    if FAST:
        return libdevice.fast_dividef(1.0, 1.0 + tl.exp(-u))
    return 1.0 / (1.0 + tl.exp(-u))


@triton.jit
def _tanh_gate(u, FAST: tl.constexpr):
    """½(1 + tanh(√(2/π)·(u + 0.044715u³))), as a sigmoid."""
    return _sigmoid(u * (u * u * (_TANH_CUBIC * _TANH_SCALE) + _TANH_SCALE), FAST)


@triton.jit
def _normal_cdf(u):
    return 0.5 + 0.5 * tl.erf(u * _SQRT_HALF)


@triton.jit
def activate(u, slope, ACTIVATION: tl.constexpr, FAST: tl.constexpr):
    """h(u)."""
    if ACTIVATION == "relu":
        return tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "relu6":
        return _clip(u, 0.0, 6.0)
    elif ACTIVATION == "leaky_relu":
        return tl.where(u > 0.0, u, u * slope)
    elif ACTIVATION == "gelu":
        return u * _normal_cdf(u)
    elif ACTIVATION == "gelu_tanh":
        return u * _tanh_gate(u, FAST)
    elif ACTIVATION == "silu":
        return u * _sigmoid(u, FAST)
    elif ACTIVATION == "hardswish":
        return u * (_clip(u + 3.0, 0.0, 6.0) * 0.16666666666666666)
    else:
        tl.static_assert(ACTIVATION == "identity")
        return u


@triton.jit
def derivative(u, slope, ACTIVATION: tl.constexpr, FAST: tl.constexpr):
    """h′(u), at a kink the value that PyTorch takes."""
    if ACTIVATION == "relu6":
        return tl.where((u > 0.0) & (u < 6.0), 1.0, 0.0)
    elif ACTIVATION == "leaky_relu":
        return tl.where(u > 0.0, 1.0, slope)
    elif ACTIVATION == "gelu":
        return _normal_cdf(u) + u * (tl.exp(u * u * -0.5) * _INV_SQRT_TAU)
    elif ACTIVATION == "gelu_tanh":
        s = _tanh_gate(u, FAST)
        return s + u * s * (1.0 - s) * (u * u * (3.0 * _TANH_CUBIC * _TANH_SCALE) + _TANH_SCALE)
    elif ACTIVATION == "silu":
        s = _sigmoid(u, FAST)
        return s * (1.0 + u * (1.0 - s))
    else:
        tl.static_assert(ACTIVATION == "hardswish")
        inside = u * 0.3333333333333333 + 0.5
        return tl.where(u <= -3.0, 0.0, tl.where(u < 3.0, inside, 1.0))
