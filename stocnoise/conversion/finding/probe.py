"""One run of a model's skeleton, as a record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stocnoise.conversion.finding.calls import Record
from stocnoise.conversion.finding.chance import Chance, seeded
from stocnoise.conversion.finding.natures import Natures
from stocnoise.conversion.finding.recorder import Recorder
from stocnoise.layers import StochasticActivation
from stocnoise.undo import handles


@dataclass
class Prober:
    """What the runs of one skeleton have in common."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    fake: FakeTensorMode | None
    natures: Natures
    most: int | None
    """Calls of stochastic layers after which a run is given up."""

    def observe(self, training: bool, chance: Chance) -> tuple[Record, bool, bool]:
        """Run once. Whatever the model raises, this raises.

        Returns:
            the record; whether the model drew a single number from PyTorch; whether it drew from other generators.
        """
        recorder = Recorder(self.model, self.natures, chance, self.most)
        self.model.train(training)
        used: list[bool] = []
        with ExitStack() as stack:
            held = stack.enter_context(handles())
            for module in set(self.model.modules()):
                held.extend(recorder.hook(module))
            for handle in recorder.hook_others():
                held.append(handle)
            for context in (_as_written(), seeded(self.model, chance.seed, used), self.fake or nullcontext()):
                stack.enter_context(context)
            stack.enter_context(recorder.operators())
            stack.enter_context(recorder)
            output = self.model(*self.args, **self.kwargs)
            record = recorder.finish(output)
        return record, recorder.draws.drawn, used[0]

    def observe_layers(self) -> list[nn.Module]:
        """The stochastic layers that run in eval mode when nobody watches.

        `observe` itself switches off the fast paths of torch that never call an activation (those of
        nn.TransformerEncoderLayer).
        """
        ran: list[nn.Module] = []
        self.model.eval()
        with ExitStack() as stack:
            held = stack.enter_context(handles())
            for layer in self.model.modules():
                if isinstance(layer, StochasticActivation):
                    held.append(layer.register_forward_hook(lambda layer, args, output: ran.append(layer)))
            for context in (_as_written(), seeded(self.model, 0, []), self.fake or nullcontext()):
                stack.enter_context(context)
            self.model(*self.args, **self.kwargs)
        return ran


@contextmanager
def _as_written() -> Iterator[None]:
    """Without gradients, and without what `torch.compile` makes of a model's parts."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield
