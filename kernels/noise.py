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
def _normals_of_pieces(seed, group, second, PIECE: tl.constexpr, FAST: tl.constexpr):
    """N(0, 1) of shape (R, PIECE·G) for groups of shape (R, G): all eight normals of each, or its first or second four.

    Four where a thread's vector holds four elements, of float32: the other four would have to go to another thread,
    through shared memory and a barrier in each turn of the loop. Two threads then make the same Philox call, some five
    instructions an element, of which float32 has time for twice as many as bfloat16.
    """
    w0, w1, w2, w3 = philox_words(seed, group)
    if PIECE == NORMALS_PER_CALL:
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # (R, G, 2, 2), the words in order
    else:
        words = tl.join(tl.where(second, w2, w0), tl.where(second, w3, w1))
    cosine, sine = box_muller(words, FAST)
    return tl.reshape(tl.join(cosine, sine), (group.shape[0], group.shape[1] * PIECE))


@triton.jit
def _normals_of_elements(seed, index, FAST: tl.constexpr):
    """The same stream an element at a time, at eight times the Philox calls, for elements not in whole groups."""
    w0, w1, w2, w3 = philox_words(seed, index // NORMALS_PER_CALL)
    lane = (index % NORMALS_PER_CALL).to(tl.int32)
    word = tl.where(lane < 4, tl.where(lane < 2, w0, w1), tl.where(lane < 6, w2, w3))
    cosine, sine = box_muller(word, FAST)
    return tl.where(lane % 2 == 0, cosine, sine)


@triton.constexpr_function
def piece_of(dtype):
    """Elements of one 128-bit vector: so many of a group's normals one thread is to hold."""
    return 128 // dtype.primitive_bitwidth


@triton.jit
def noise(seed, piece, index, numel, walk, PIECE: tl.constexpr, FAST: tl.constexpr):
    """N(0, 1) of shape (R, PIECE·G) for the elements `index`, int64, of the same shape, and their pieces (R, G).

    Piece p is the elements p·PIECE … of the memory of y, PIECE 8 or 4. The walk leads from y to where the noise counts
    its elements: elsewhere if all rows x[i] share one row of noise.
    """
    if keeps_groups(walk):
        group = piece if PIECE == NORMALS_PER_CALL else piece >> 1
        return _normals_of_pieces(seed, place_of_groups(group, numel, walk), piece & 1 != 0, PIECE, FAST)
    else:
        return _normals_of_elements(seed, place_of_elements(index, numel, walk), FAST)
