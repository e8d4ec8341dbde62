"""From an element's place in the memory of the result to its place in another: in x, in a gradient, in a row of noise.

A walk is `()` where both are the same. Otherwise it is (unit, step, every, skip, every, skip, …) and moves pieces of
`unit` consecutive elements, 8 or 1: piece p stands at p·step + Σ (p // every)·skip, counted in pieces. `layout.walk_of`
makes it of strides. For sm_90 a skip is 2 instructions an element in the training forward with unit 8, 14 with unit 1.
Compiled code depends on its length, its unit and which of its numbers are 1 or multiples of 16.
"""

import triton
import triton.language as tl

from .gaussian import NORMALS_PER_CALL as GROUP


@triton.jit
def _number(index, numel):
    """For divisions: in 32 bits, where they are half as long, up to 2³¹ elements; without a sign they are shorter."""
    return index.to(tl.uint32 if numel.dtype == tl.int32 else tl.uint64)


@triton.jit
def _place_of_pieces(p, walk):
    place = p.to(tl.int64) * walk[1]
    for i in tl.static_range(2, len(walk), 2):
        place += (p // walk[i].to(p.dtype)).to(tl.int64) * walk[i + 1]
    return place


@triton.jit
def keeps_groups(walk):
    """Whether the walk moves groups of eight as a whole."""
    return len(walk) == 0 or walk[0] == GROUP


@triton.jit
def place_of_groups(group, numel, walk):
    """Where groups (int64) of the result stand, counted in groups, for a walk that keeps them."""
    if len(walk) == 0:
        return group
    else:
        return _place_of_pieces(_number(group, numel), walk)


@triton.jit
def place_of_elements(index, numel, walk):
    """Where elements (int64) of the result stand; neighbours in a group that the walk keeps remain a vector."""
    if len(walk) == 0:
        return index
    else:
        i = _number(index, numel)
        if walk[0] == GROUP:
            return _place_of_pieces(i // GROUP, walk) * GROUP + i % GROUP
        else:
            return _place_of_pieces(i, walk)
