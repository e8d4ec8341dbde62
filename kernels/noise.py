"""The noise of an element: a pure function of the seed and the element's index in the memory of y.

Elements 8g … 8g+7 share the Philox call of counter g: the first four take the cosines of its words 0 … 3, the last four
the sines. So neither the tile, nor the number of warps, nor the grid can change the stream.
"""

import triton
import triton.language as tl

from .gaussian import NORMALS_PER_CALL, box_muller
from .philox import philox_words


@triton.jit
def _normals_of_groups(seed, group, FAST: tl.constexpr):
    """N(0, 1) of shape (R, 8G) for groups of shape (R, G): one Philox call for eight elements."""
    w0, w1, w2, w3 = philox_words(seed, group)
    a0, b0 = box_muller(w0, FAST)
    a1, b1 = box_muller(w1, FAST)
    a2, b2 = box_muller(w2, FAST)
    a3, b3 = box_muller(w3, FAST)
    even = tl.join(tl.join(a0, b0), tl.join(a2, b2))
    odd = tl.join(tl.join(a1, b1), tl.join(a3, b3))
    return tl.reshape(tl.join(even, odd), (group.shape[0], group.shape[1] * NORMALS_PER_CALL))


@triton.jit
def _normals_of_elements(seed, index, FAST: tl.constexpr):
    """The same stream, an element at a time: eight times the Philox calls, for elements that are not in whole groups."""
    w0, w1, w2, w3 = philox_words(seed, index // NORMALS_PER_CALL)
    lane = (index % NORMALS_PER_CALL).to(tl.int32)
    low = tl.where(lane % 2 == 0, w0, w1)
    high = tl.where(lane % 2 == 0, w2, w3)
    a, b = box_muller(tl.where(lane % 4 < 2, low, high), FAST)
    return tl.where(lane < 4, a, b)


@triton.jit
def noise(seed, group, period, SHARED: tl.constexpr, GROUPED: tl.constexpr, FAST: tl.constexpr):
    """N(0, 1) of shape (R, 8G) for the elements of groups (R, G), int64.

    SHARED: the index counts modulo `period`, the elements of one row x[i]. GROUPED: `period` is a multiple of 8.
    """
    if not SHARED:
        return _normals_of_groups(seed, group, FAST)
    if GROUPED:
        return _normals_of_groups(seed, group % (period // NORMALS_PER_CALL), FAST)
    index = group[:, :, None] * NORMALS_PER_CALL + tl.arange(0, NORMALS_PER_CALL)[None, None, :]
    index = tl.reshape(index, (group.shape[0], group.shape[1] * NORMALS_PER_CALL))
    return _normals_of_elements(seed, index % period, FAST)
