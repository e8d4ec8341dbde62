"""Models made at random from the blocks of `random_blocks`, of any dtype, layout and mode.

A tree is a description: it builds the same model each time, and prints as the expression that builds it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conversion.random_blocks import (
    CHANNELS,
    FUNCTIONS,
    KINDS,
    MODULES,
    SHARED,
    Around,
    Block,
    Branches,
    Twice,
)


@dataclass(frozen=True)
class Leaf:
    kind: type[Block]
    act: int
    function: int
    times: int

    def build(self, shared: nn.Module) -> nn.Module:
        return self.kind(_act(self.act, shared), FUNCTIONS[self.function], self.times)

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({_act_words(self.act)}, {_words(FUNCTIONS[self.function])}, {self.times})"

    def kinds(self) -> Iterator[type[nn.Module]]:
        yield self.kind


@dataclass(frozen=True)
class Inner:
    kind: type[nn.Module]
    act: int
    inside: tuple[Tree, ...]

    def build(self, shared: nn.Module) -> nn.Module:
        parts = [part.build(shared) for part in self.inside]
        if self.kind is Around:
            return Around(parts[0], _act(self.act, shared))
        if self.kind is Twice:
            return Twice(parts[0])
        return Branches(parts) if self.kind is Branches else nn.Sequential(*parts, _act(self.act, shared))

    def __repr__(self) -> str:
        parts = ", ".join(map(repr, self.inside))
        if self.kind is Around:
            return f"Around({parts}, {_act_words(self.act)})"
        if self.kind is nn.Sequential:
            return f"nn.Sequential({parts}, {_act_words(self.act)})"
        return f"Branches([{parts}])" if self.kind is Branches else f"Twice({parts})"

    def kinds(self) -> Iterator[type[nn.Module]]:
        yield self.kind
        for part in self.inside:
            yield from part.kinds()


Tree = Leaf | Inner


def _act(number: int, shared: nn.Module) -> nn.Module:
    return shared if number == SHARED else MODULES[number]()


def _act_words(number: int) -> str:
    return "shared" if number == SHARED else f"{_words(MODULES[number])}()"


def _words(made: Any) -> str:
    if not isinstance(made, functools.partial):
        return made.__name__
    settings = [*map(repr, made.args), *(f"{name}={value!r}" for name, value in made.keywords.items())]
    return f"partial({_words(made.func)}, {', '.join(settings)})"


_leaves = st.builds(
    Leaf,
    st.sampled_from(KINDS),
    st.integers(0, len(MODULES)),
    st.integers(0, len(FUNCTIONS) - 1),
    st.integers(1, 3),
)


def _around(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    one = st.tuples(inner)
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    numbers = st.integers(0, len(MODULES))
    return st.one_of(
        st.builds(Inner, st.sampled_from([nn.Sequential, Branches]), numbers, several),
        st.builds(Inner, st.sampled_from([Around, Twice]), numbers, one),
    )


def trees(largest: int) -> st.SearchStrategy[Tree]:
    """Of up to so many blocks."""
    return st.recursive(_leaves, _around, max_leaves=largest)


@dataclass(frozen=True)
class Case:
    """A tree, and what it is run in: the dtype, the input's layout, the mode, the module that stays in eval mode."""

    tree: Tree
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    training: bool = False
    still: int | None = None

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.tree.build(nn.ReLU()).to(self.dtype).train(self.training)
        if self.still is not None:
            modules = list(model.modules())
            modules[self.still % len(modules)].eval()
        return model

    def input(self, seed: int = 0) -> Tensor:
        """(2, CHANNELS, 4, 4)."""
        x = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(seed)).to(self.dtype)
        if self.layout == "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        if self.layout == "transposed":
            return x.mT.contiguous().mT
        return x.repeat_interleave(2, 3)[..., ::2] if self.layout == "strided" else x

    def source(self) -> str:
        """The code of the model, as a reader would run it."""
        kinds = [
            cls for kind in self.tree.kinds() for cls in reversed(kind.__mro__) if cls.__module__ == Block.__module__
        ]
        code = [inspect.getsource(cls) for cls in dict.fromkeys(kinds)]
        return "\n\n".join([*code, f"shared = nn.ReLU()\nmodel = {self.tree}"])


cases: st.SearchStrategy[Case] = st.builds(
    Case,
    trees(3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from(["contiguous", "channels_last", "transposed", "strided"]),
    st.booleans(),
    st.none() | st.integers(0, 20),
)
