"""The noise of an element: a pure function of the seed and the element's index in the memory of y.

Elements 8g … 8g+7 share the Philox call of counter g: each of its four words gives the cosine and the sine of two
neighbours. So neither the tile, nor the number of warps, nor the grid can change the stream.
"""

import triton
import triton.language as tl

from .gaussian import NORMALS_PER_CALL, box_muller
from .philox import philox_words
from .walk import keeps_groups, place_of_elements, place_of_groups


@triton.jit
def _normals_of_groups(seed, group, FAST: tl.constexpr):
    """N(0, 1) of shape (R, 8G) for groups of shape (R, G): one Philox call for eight elements."""
    w0, w1, w2, w3 = philox_words(seed, group)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # (R, G, 2, 2), the words in order
    cosine, sine = box_muller(words, FAST)
    return tl.reshape(tl.join(cosine, sine), (group.shape[0], group.shape[1] * NORMALS_PER_CALL))


@triton.jit
def _normals_of_elements(seed, index, FAST: tl.constexpr):
    """The same stream an element at a time, at eight times the Philox calls, for elements not in whole groups."""
    w0, w1, w2, w3 = philox_words(seed, index // NORMALS_PER_CALL)
    lane = (index % NORMALS_PER_CALL).to(tl.int32)
    word = tl.where(lane < 4, tl.where(lane < 2, w0, w1), tl.where(lane < 6, w2, w3))
    cosine, sine = box_muller(word, FAST)
    return tl.where(lane % 2 == 0, cosine, sine)


@triton.jit
def noise(seed, group, index, numel, walk, FAST: tl.constexpr):
    """N(0, 1) of shape (R, 8G) for the elements `index` (R, 8G), int64, of the groups (R, G).

    The walk leads from y to where the noise counts its elements: elsewhere if all rows x[i] share one row of noise.
    """
    if keeps_groups(walk):
        return _normals_of_groups(seed, place_of_groups(group, numel, walk), FAST)
    else:
        return _normals_of_elements(seed, place_of_elements(index, numel, walk), FAST)
