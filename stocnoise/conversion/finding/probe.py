"""One run of a model's skeleton that records every call of an activation, and where it stands."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from stocnoise.activations import Activation
from stocnoise.conversion.finding import channels, shapes
from stocnoise.conversion.finding.catalog import ACTIVATIONS, GATES, Reader, is_opaque_activation
from stocnoise.conversion.finding.places import is_plain_leaf, join
from stocnoise.conversion.finding.trace import Trace, Tracer
from stocnoise.layers import StochasticActivation


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
    noisy: bool = False
    """The input comes straight from a stochastic layer."""


def name_of(call: Call, paths: Mapping[nn.Module, str]) -> str:
    """The name of the site that `call` belongs to."""
    if call.module is not None:
        return paths[call.module]
    return join(paths[call.trace.owner], call.name) if call.trace else call.name


@dataclass
class Record:
    """What one run showed."""

    calls: list[Call] = field(default_factory=list)
    left: list[tuple[str, nn.Module | None, str]] = field(default_factory=list)
    """Calls that are left alone: the function's name, the module whose method it is called in, and the reason."""
    ran: list[nn.Module] = field(default_factory=list)
    """The stochastic layers in the order of their calls."""

    def modules(self) -> set[nn.Module]:
        """The modules that an activation was called by or in."""
        owners = [call.trace.owner for call in self.calls if call.trace is not None]
        return {*owners, *(call.module for call in self.calls if call.module is not None), *self.ran}


@dataclass
class _Leaf:
    """A plain leaf that is running, and what it has done so far."""

    module: nn.Module
    input: Any
    functions: int = 0
    call: Call | None = None
    result: Any = None


class _Recorder(TorchFunctionMode):
    """Sees every function of torch; hooks on the skeleton tell it which leaf is running."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self._tracer = Tracer()
        self._leaves: list[_Leaf] = []
        self._closed = 0  # how many modules are running whose inside is none of our business
        self._written: dict[int, list[Call]] = {}  # by the storage that a call overwrote
        self._storages: list[Any] = []  # kept, so that no two share an address
        self._noisy: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]  # torch.ops.aten.relu.default
        if name == "__get__":  # x.shape and the like read no data
            return func(*args, **kwargs)
        self._note_reads((args, kwargs))
        if self._leaves:
            self._leaves[-1].functions += 1
        known = _lookup(ACTIVATIONS, func)
        if known is not None and not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        gate = _lookup(GATES, func)
        if (output := shapes.result(name, args, kwargs)) is not None:
            pass
        elif self._closed or (known is None and gate is None) or not (args and isinstance(args[0], Tensor)):
            output = func(*args, **kwargs)
        elif (reason := "a gate or an output" if known is None else _why_not(args[0])) is None:
            output = self._activation(func, known[0], known[1], args, kwargs)
        else:
            trace = self._tracer.trace(sys._getframe(1))
            self.record.left.append((gate or known[0], trace.owner if trace else None, reason))
            output = func(*args, **kwargs)
        channels.mark_output(name, args, kwargs, output)
        return output

    def _activation(self, func: Any, name: str, reader: Reader, args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        call = self._record(name, reader(*args, **kwargs), x)
        call.trace = self._tracer.trace(sys._getframe(2))
        call.method = (
            func is getattr(Tensor, func.__name__, None)
            and call.trace is not None
            and call.trace.helper is None
            and call.trace.callee is not func
        )
        # On a copy, so that a later use of x is told from one of the result.
        duplicate = x.clone()
        output: Tensor = func(duplicate, *args[1:], **kwargs)
        call.inplace = _address(output) == _address(duplicate)
        if call.inplace:
            self._written.setdefault(_address(x), []).append(call)
            self._storages.append(x.untyped_storage())
        if self._leaves and self._leaves[-1].input is x:
            self._leaves[-1].call, self._leaves[-1].result = call, output
        return output

    def _record(self, name: str, activation: Activation | None, x: Tensor) -> Call:
        call = Call(name, activation, tuple(x.shape), channels.channel_dim(x), x.device, noisy=x is self._noisy)
        self.record.calls.append(call)
        return call

    def _note_reads(self, values: Any) -> None:
        if self._written:
            for tensor in _tensors(values):
                for call in self._written.get(_address(tensor), ()):
                    call.read_again = True

    def hook(self, module: nn.Module) -> Iterator[Any]:
        """Register what this recorder has to know about `module`; gives the handles."""
        if isinstance(module, StochasticActivation) or is_opaque_activation(module):
            yield module.register_forward_pre_hook(self._enter_closed)
            yield module.register_forward_hook(self._leave_closed)
        elif is_plain_leaf(module):
            yield module.register_forward_pre_hook(self._enter_leaf)
            yield module.register_forward_hook(self._leave_leaf)

    def _enter_leaf(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._leaves.append(_Leaf(module, args[0] if args else None))

    def _leave_leaf(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        leaf = self._leaves.pop()
        if leaf.call is not None and leaf.functions == 1 and leaf.result is output:
            leaf.call.module, leaf.call.trace = module, self._tracer.trace(sys._getframe(1))

    def _enter_closed(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        ours = isinstance(module, StochasticActivation)
        if not self._closed and not ours and args and _why_not(args[0]) is None:
            call = self._record(type(module).__name__, None, args[0])
            call.module, call.trace = module, self._tracer.trace(sys._getframe(1))
        self._closed += 1

    def _leave_closed(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._closed -= 1
        if isinstance(module, StochasticActivation):
            self.record.ran.append(module)
            self._noisy = output
        channels.mark_output("", args, {}, output)

    def finish(self, output: Any) -> Record:
        self._note_reads([output])
        return self.record


def observe(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool, fake: FakeTensorMode | None
) -> Record:
    """Run `model` (a skeleton) once and record its activation calls. Whatever the model raises, this raises."""
    recorder = _Recorder()
    model.train(training)
    with ExitStack() as stack:
        for module in set(model.modules()):
            for handle in recorder.hook(module):
                stack.callback(handle.remove)
        for context in (_quietly(model), fake or nullcontext(), recorder):
            stack.enter_context(context)
        output = model(*args, **kwargs)
    return recorder.finish(output)


def observe_layers(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], fake: FakeTensorMode | None
) -> list[nn.Module]:
    """The stochastic layers that run in eval mode when nobody watches.

    `observe` itself switches off the fast paths of torch that never call an activation (nn.TransformerEncoderLayer's).
    """
    ran: list[nn.Module] = []
    model.eval()
    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, StochasticActivation):
                stack.callback(layer.register_forward_hook(lambda layer, args, output: ran.append(layer)).remove)
        for context in (_quietly(model), fake or nullcontext()):
            stack.enter_context(context)
        model(*args, **kwargs)
    return ran


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """Run `model` as written, without what `torch.compile` makes of its parts, and leave nothing behind."""
    with random_state_kept(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Leave the random generators that a run of `model` draws from as they are."""
    state = random.getstate()
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)


def _lookup(table: Mapping[Any, Any], func: Any) -> Any:
    try:
        return table.get(func)
    except TypeError:  # unhashable
        return None


def _why_not(x: Any) -> str | None:
    """Why an activation of x is not a site, if so."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return "its input is no tensor of real numbers"
    if isinstance(x, nn.Parameter):
        return "its input is a parameter"
    return "its input has no batch or no channels" if x.dim() < 2 else None


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(values.values())
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for value in values:
            yield from _tensors(value)
