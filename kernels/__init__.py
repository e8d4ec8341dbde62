"""Triton kernels of the fused operation; imported as `stocnoise.kernels`, and only where Triton is installed."""

raise ImportError("the Triton kernels are not written yet")
