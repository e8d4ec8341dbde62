"""Models made at random from blocks that apply activations in every way, of any dtype, layout and mode.

A tree is a description: it builds the same model each time, and prints as the expression that builds it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

CHANNELS = 3
MODULES: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.ReLU6,
    functools.partial(nn.ReLU, inplace=True),
    functools.partial(nn.LeakyReLU, 0.2),
]
SHARED = len(MODULES)
"""Stands for one activation object that is shared by all that say so."""
FUNCTIONS: list[Callable[..., Tensor]] = [
    F.relu,
    torch.relu,
    F.gelu,
    F.silu,
    F.hardswish,
    F.leaky_relu,
    F.mish,
    functools.partial(F.leaky_relu, negative_slope=0.3),
]


class Block(nn.Module):
    """`act` and `function` are its activation, as a module and as a function; `times` is how often a loop runs."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.act = act
        self.function = function
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Repeated(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        return x + self.act(self.conv(y) + 1)


class Functional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) - F.silu(x)


class Attribute(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class Methods(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return y.sub(0.1).relu() + y


class Residual(Block):
    """Reads what an in-place module has overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y) + y


class Loop(Block):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.act(self.conv(x)) + F.gelu(x)
        return x


class Helper(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self._step(self._step(x, 1.0), scale=0.5)

    def _step(self, x: Tensor, scale: float) -> Tensor:
        return F.relu(self.conv(x)) * scale


class Upper(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(super().forward(x) + self.function(x))


class Comprehension(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.act(self.conv(x + n)) for n in range(self.times)]).mean(0)


class Closure(Block):
    def forward(self, x: Tensor) -> Tensor:
        def step(y: Tensor) -> Tensor:
            return self.function(self.conv(y))

        for _ in range(self.times):
            x = step(x)
        return x


class ByMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) if self.training else F.silu(self.conv(x))
        return self.act(x + 0)


class Tokens(Block):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.gelu(tokens).transpose(1, 2).view_as(x)


class ChannelsLast(Block):
    """What a linear layer makes has its channels last."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.conv = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Vector(Block):
    """Without places: (B, C)."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.conv = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(self.conv(x.mean((2, 3))))[:, :, None, None]


class Normed(Block):
    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.norm(self.act(self.norm(self.conv(x)))))


class Dropped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.dropout(self.conv(x), 0.3, self.training))


class WrittenOut(Block):
    """An activation as a product of x and a gate of x."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(y) + self.act(x * 1)


def scaled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return 0.5 * forward(self, *args, **kwargs)

    return wrapper


class Decorated(Block):
    @scaled
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + F.relu(self.step(x))

    @scaled
    @scaled
    def step(self, x: Tensor) -> Tensor:
        return self.act(x + 1)


class Property(Block):
    @property
    def nonlinearity(self) -> nn.Module:
        return self.act

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinearity(self.conv(x)) + F.silu(self.doubled)

    @property
    def doubled(self) -> Tensor:
        return F.relu(self.conv.weight.new_ones(2, CHANNELS, 4, 4))


def free(x: Tensor) -> Tensor:
    y = F.relu(x)
    return y + torch.tanh(y)


class Free(Block):
    """A function that is no method."""

    def forward(self, x: Tensor) -> Tensor:
        return free(self.conv(x)) + free(x)


class InModuleDict(Block):
    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.parts = nn.ModuleDict({"conv": self.conv, "act": self.act, "other": nn.ModuleList([nn.SiLU(), act])})

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.parts["conv"], self.parts["act"], *self.parts["other"]):
            x = part(x + 0)
        return x


class InContainers(Block):
    """Registered modules, walked through a list and a dict of Python's."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.more = nn.GELU()
        self.held = {"first": [self.conv, (self.act,)], "second": self.more}

    def forward(self, x: Tensor) -> Tensor:
        conv, (act,) = self.held["first"]
        return self.held["second"](act(conv(x)))


class Named(Block):
    """Functions in a dict, chosen by name."""

    def __init__(self, act: nn.Module, function: Callable[..., Tensor], times: int) -> None:
        super().__init__(act, function, times)
        self.functions = {"a": F.gelu, "b": function}

    def forward(self, x: Tensor) -> Tensor:
        return self.functions["b"](self.functions["a"](self.conv(x)))


class Around(nn.Module):
    """A block inside another one, whose activation object it may share."""

    def __init__(self, inside: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.inside(self.act(x * 1)))


class Twice(nn.Module):
    """A block that stands under two names."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.first = self.second = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(0.5 * x)


class Branches(nn.Module):
    """Blocks in a ModuleDict, whose outputs travel in a dict."""

    def __init__(self, inside: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({f"b{number}": each for number, each in enumerate(inside)})

    def forward(self, x: Tensor) -> Tensor:
        found = {name: branch(x) for name, branch in self.branches.items()}
        return F.relu(torch.stack([found[name] for name in sorted(found)]).sum(0) / len(found))


KINDS = [Block, Repeated, Functional, Attribute, Methods, Residual, Loop, Helper, Upper, Comprehension, Closure]
KINDS += [ByMode, Tokens, ChannelsLast, Vector, Normed, Dropped, WrittenOut, Decorated, Property, Free]
KINDS += [InModuleDict, InContainers, Named]


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
        kinds = [cls for kind in self.tree.kinds() for cls in reversed(kind.__mro__) if cls.__module__ == __name__]
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
