"""Blocks that apply activations in every way, and what may stand around them: what `random_trees` builds models of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
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
