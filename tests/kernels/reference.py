"""The noise in NumPy, float64, one element at a time: what the kernels must draw, whatever their tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox_words(key: int, counter: npt.NDArray[np.uint64], rounds: int = 7) -> npt.NDArray[np.uint64]:
    """Philox4x32 of Salmon et al. 2011, (…, 4); in 64-bit integers throughout, unlike the kernel."""
    c = [counter & _MASK, counter >> _SHIFT, np.zeros_like(counter), np.zeros_like(counter)]
    k = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
    for _ in range(rounds):
        a = c[0] * np.uint64(0xD2511F53)
        b = c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> _SHIFT) ^ c[1] ^ np.uint64(k[0]), b & _MASK, (a >> _SHIFT) ^ c[3] ^ np.uint64(k[1]), a & _MASK]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1)


def box_muller(words: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both normals of each word, as `stocnoise.kernels.gaussian` defines them."""
    u = (2.0 * (words >> np.uint64(9)).astype(np.float64) + 1) / 2**24
    b = (words * np.uint64(0x4F1BBD)) & np.uint64(0x7FFFFE) | np.uint64(1)
    theta = np.pi * (b.astype(np.float64) / 2**22 - 1)
    radius = np.sqrt(-2 * np.log(u))
    return radius * np.cos(theta), radius * np.sin(theta)


def normals(seed: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """z of each element index."""
    words = philox_words(seed, (index // 8).astype(np.uint64))
    cosines, sines = box_muller(words)
    both = np.stack([cosines, sines], -1).reshape(*words.shape[:-1], 8)
    return np.take_along_axis(both, (index % 8)[..., None], -1)[..., 0]


def noise_like(y: Tensor, seed: int, shared: bool = False) -> Tensor:
    """z of each element of a dense tensor, float64; `shared`: by its place in its row y[i]."""
    index = torch.empty_strided(y.shape, y.stride(), dtype=torch.int64)
    index.as_strided((y.numel(),), (1,)).copy_(torch.arange(y.numel()))
    if shared:
        index %= y.numel() // y.shape[0]
    return torch.from_numpy(normals(seed, index.numpy()))
