"""Activations h and derivatives h′ as functions of loaded float32 values, chosen by name at compile time."""

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

_INV_SQRT_TAU = tl.constexpr(0.3989422804014327)
_TANH_SCALE = tl.constexpr(1.5957691216057308)  # 2·√(2/π), as ½(1 + tanh v) = sigmoid(2v)
_TANH_CUBIC = tl.constexpr(0.044715)


@triton.jit
def _clip(u, low, high):
    """Clamp u, letting NaN through as PyTorch does."""
    u = tl.maximum(u, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(u, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _reciprocal(v, FAST: tl.constexpr):
    """1 / v; the fast division, 2 ulp, is 6 instructions shorter."""
    if FAST:
        return libdevice.fast_dividef(1.0, v)
    return 1.0 / v


@triton.jit
def _sigmoid(u, FAST: tl.constexpr):
    return _reciprocal(1.0 + tl.exp(-u), FAST)


@triton.jit
def _tanh_gate(u, FAST: tl.constexpr):
    """½(1 + tanh(√(2/π)·(u + 0.044715u³))), as a sigmoid."""
    return _sigmoid(u * (u * u * (_TANH_CUBIC * _TANH_SCALE) + _TANH_SCALE), FAST)


@triton.jit
def _upper_tail(u, FAST: tl.constexpr):
    """1 − Φ(|u|), with an absolute error below 3e-7 and relative 2e-6 to |u| = 6; exp(−u²/2); and |u|.

    e^(−u²/2) times a polynomial in t = 1/(1 + |u|/4). With `tl.erf`, which branches, GELU is 10 instructions
    longer and its derivative 16.
    """
    a = tl.minimum(tl.abs(u), 16.0, propagate_nan=tl.PropagateNan.ALL)
    t = _reciprocal(tl.fma(a, 0.25, 1.0), FAST)
    p = tl.fma(t, -0.09369132667779922, 0.3518557548522949)
    p = tl.fma(t, p, -0.28742673993110657)
    p = tl.fma(t, p, 0.3023572862148285)
    p = tl.fma(t, p, 0.012770777568221092)
    p = tl.fma(t, p, 0.11573556810617447)
    p = tl.fma(t, p, 0.09839873015880585)
    e = tl.exp(a * a * -0.5)
    return e * (t * p), e, a


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
        tail, _, a = _upper_tail(u, FAST)
        return tl.fma(-a, tail, tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL))
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
    if ACTIVATION == "leaky_relu":  # of a negative slope, else y decides
        return tl.where(u > 0.0, 1.0, slope)
    elif ACTIVATION == "gelu":
        tail, e, _ = _upper_tail(u, FAST)
        return tl.fma(u, e * _INV_SQRT_TAU, tl.where(u > 0.0, 1.0 - tail, tail))
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


@triton.jit
def times_derivative_at_output(grad, y, slope, ACTIVATION: tl.constexpr):
    """grad · h′(u) from y = h(u), y in float32 and grad in any type; at a kink, and where y is NaN, as on CUDA.

    A gradient that passes whole is not converted: on gfx942, which rounds to bfloat16 by hand, that would double the
    kernel.
    """
    zero = tl.zeros_like(grad)
    if ACTIVATION == "relu":
        return tl.where(y <= 0.0, zero, grad)
    elif ACTIVATION == "relu6":
        return tl.where((y <= 0.0) | (y >= 6.0), zero, grad)
    else:
        tl.static_assert(ACTIVATION == "leaky_relu")
        return tl.where(y > 0.0, grad, (grad.to(tl.float32) * slope).to(grad.dtype))
