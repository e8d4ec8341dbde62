"""What a run shows: calls of activations, and what was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stocnoise.activations import Activation
from stocnoise.conversion.finding.places import join
from stocnoise.conversion.finding.source import Product
from stocnoise.conversion.finding.trace import Trace


@dataclass
class Call:
    """One call of an activation."""

    name: str
    activation: Activation | None
    """None if the fused operation does not know it."""
    shape: tuple[int, ...]
    channel_dim: int
    device: torch.device
    method: bool = False
    """Called as a method of its input, x.relu()."""
    trace: Trace | None = None
    module: nn.Module | None = None
    """The module that does nothing but this, if one does."""
    inplace: bool = False
    read_again: bool = False
    """The activation wrote into its input, and the input was used afterwards."""
    given: bool = False
    """The activation wrote into what the model was called with."""
    noisy: bool = False
    """The input comes straight from a stochastic layer."""
    reason: str = ""
    """Why it counts as an activation, where that was told from its values."""
    written_out: bool = False
    """A product x · gate(x), not one call."""
    product: Product | None = None
    """Where that product stands, if its input can be told there."""
    hidden: bool = False
    """Seen by its operator alone: it is called in compiled code."""


def name_of(call: Call, paths: Mapping[nn.Module, str]) -> str:
    """The name of the site that `call` belongs to."""
    if call.module is not None:
        return paths[call.module]
    return join(paths[call.trace.owner], call.name) if call.trace else call.name


@dataclass
class Left:
    """A call that is left alone."""

    name: str
    """Of the function or the class."""
    module: nn.Module | None
    """The module whose method it is called in."""
    reason: str


@dataclass
class Record:
    """What one run showed."""

    calls: list[Call] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    ran: list[nn.Module] = field(default_factory=list)
    """The stochastic layers in the order of their calls."""
    entered: set[nn.Module] = field(default_factory=set)
    """Every module that was called."""
    decided: dict[int, set[int]] = field(default_factory=dict)
    """The lines at which values were read to decide what runs, by the number of the frame."""
    functions: list[Any] = field(default_factory=list)
    """What was called outside activations: names, shapes and plain arguments."""

    def modules(self) -> set[nn.Module]:
        """The modules that an activation was called by or in."""
        owners = [call.trace.owner for call in self.calls if call.trace is not None]
        return {*owners, *(call.module for call in self.calls if call.module is not None), *self.ran}
