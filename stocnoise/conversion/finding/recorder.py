"""Sees every function of torch that a model calls, and which of its modules is running."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stocnoise.activations import Activation
from stocnoise.conversion.finding import channels, shapes
from stocnoise.conversion.finding.callee import product_in
from stocnoise.conversion.finding.calls import Call, Left, Record
from stocnoise.conversion.finding.catalog import Reader, activation_reader, gate_name
from stocnoise.conversion.finding.chance import Chance, Draws
from stocnoise.conversion.finding.loops import READERS
from stocnoise.conversion.finding.natures import Nature, Natures
from stocnoise.conversion.finding.operators import Operators
from stocnoise.conversion.finding.places import is_plain_leaf
from stocnoise.conversion.finding.products import Found, Products
from stocnoise.conversion.finding.trace import Tracer
from stocnoise.layers import StochasticActivation

_NOISY = "_stocnoise_noisy"
_WRITTEN_OUT = "part of an activation that is written out"
_RECURRENT = {"rnn_relu", "rnn_relu_cell"}
_STEPS = "recurrent: its steps are inside one call of torch"


class EndlessError(RuntimeError):
    """A student calls its layers far more often than its model calls activations."""


@dataclass
class _Running:
    """A module that is running, and what it has done so far."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    closed: bool = False
    """Whether its inside is none of our business."""
    before: tuple[int, int, int] = (0, 0, 0)
    """How much was recorded of calls, of what was left, and of functions when it began."""
    functions: int = 0
    names: set[str] = field(default_factory=set)
    """Of functions called in it and inside it."""
    call: Call | None = None
    result: Any = None


class Recorder(TorchFunctionMode):
    """Makes the record of one run of `model`; hooks tell it which module is running."""

    def __init__(self, model: nn.Module, natures: Natures, chance: Chance, most: int | None) -> None:
        super().__init__()
        self.record = Record()
        self.draws = Draws(chance)
        self._modules = set(model.modules())
        self._natures = natures
        self._most = most
        self._tracer = Tracer(self._modules)
        self._products = Products()
        self._running: list[_Running] = []
        self._thread = threading.get_ident()
        self._closed = 0  # how many modules are running whose inside is none of our business
        self._deaf = 0  # how many things of our own are going on, and functions whose operators are accounted for
        self._written: dict[int, list[Call]] = {}  # by the storage that a call overwrote
        self._storages: list[Any] = []  # kept, so that no two share an address
        self._given: set[int] = set()  # the storages that the model was called with
        self._noisy: Any = None

    # Functions.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]  # torch.ops.aten.relu.default
        if name == "__get__" or self._deaf:  # x.shape and the like read no data
            return func(*args, **kwargs)
        self._note_reads((args, kwargs))
        if name in READERS:
            number, line = self._tracer.line(sys._getframe(1))
            self.record.decided.setdefault(number, set()).add(line)
        if self._running:
            self._running[-1].functions += 1
            self._running[-1].names.add(name)
        known = activation_reader(func)
        if known is not None and not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        if self._closed:
            output = shapes.result(name, args, kwargs)
            output = func(*args, **kwargs) if output is None else output
        else:
            output = self._open(func, name, known, args, kwargs)
        channels.mark_output(name, args, kwargs, output)
        return output

    def _open(self, func: Any, name: str, known: tuple[str, Reader] | None, args: Any, kwargs: Any) -> Any:
        """A call outside activations."""
        item: Call | Left | None = None
        found = self._products.find(name, args)
        if found is not None:
            item = self._written_out(found, name, sys._getframe(1))
        if (output := shapes.result(name, args, kwargs)) is not None:
            pass
        elif args and isinstance(args[0], Tensor) and (known is not None or gate_name(func) is not None):
            item, output = self._activation_or_gate(func, known, args, kwargs)
        elif name in _RECURRENT:
            item = self._leave("relu", sys._getframe(1), _STEPS)
            with self._not_listening():
                output = func(*args, **kwargs)
        else:
            output = self.draws.pinned(name, args, func(*args, **kwargs))
        self._products.note(name, func, args, kwargs, output, item)
        if known is None and isinstance(output, (Tensor, tuple, list)):
            self.record.functions.append((name, _outline((args, kwargs))))
        return output

    def _activation_or_gate(
        self, func: Any, known: tuple[str, Reader] | None, args: Any, kwargs: Any
    ) -> tuple[Call | Left, Any]:
        reason = "a gate or an output" if known is None else _why_not(args[0])
        with self._not_listening():
            if reason is None and known is not None:
                return self._activation(func, *known, args, kwargs)
            name = known[0] if known is not None else str(gate_name(func))
            return self._leave(name, sys._getframe(1), str(reason)), func(*args, **kwargs)

    def _activation(self, func: Any, name: str, reader: Reader, args: Any, kwargs: Any) -> tuple[Call, Tensor]:
        x = args[0]
        call = self._record(name, reader(*args, **kwargs), x)
        call.trace = self._tracer.trace(sys._getframe(1))
        call.method = (
            func is getattr(Tensor, func.__name__, None)
            and call.trace is not None
            and call.trace.helper is None
            and call.trace.callee is not func
        )
        # On a copy, so that a later use of x is told from one of the result.
        duplicate = x.clone()
        output: Tensor = func(duplicate, *args[1:], **kwargs)
        if _address(output) == _address(duplicate):
            self._overwrites(call, x)
        if self._running:
            running = self._running[-1]
            if is_plain_leaf(running.module) and running.args and running.args[0] is x:
                running.call, running.result = call, output
        return call, output

    def _written_out(self, found: Found, name: str, frame: FrameType) -> Call:
        """A product x · gate(x) is one activation; what was recorded of its parts is taken back."""
        parts = [part for part in found.items if isinstance(part, Call)]
        self.record.calls = [call for call in self.record.calls if not any(call is part for part in parts)]
        for part in found.items:
            if isinstance(part, Left):
                part.reason = _WRITTEN_OUT
            else:
                owner = part.module or (part.trace.owner if part.trace else None)
                self.record.left.append(Left(part.name, owner, _WRITTEN_OUT))
        call = self._record(found.name, None, found.x)
        call.reason, call.written_out = "written out: a product of x and a gate of x", True
        call.noisy = getattr(found.x, _NOISY, False)
        call.trace = self._tracer.trace(frame)
        if call.trace is not None and call.trace.helper is None:
            call.product = product_in(self._tracer.innermost(frame), found.x)
            if call.product is not None:
                *outer, last = call.trace.links
                call.trace = replace(call.trace, links=(*outer, replace(last, position=call.product.position)))
        if name.endswith("_"):
            self._overwrites(call, found.x)
        return call

    def operator(self, name: str, x: Tensor) -> None:
        """An operator that is an activation; in a function that is known it is accounted for."""
        if not (self._closed or self._deaf) and _why_not(x) is None:
            call = self._record(name, None, x)
            call.hidden, call.trace = True, self._tracer.trace(sys._getframe(1))

    def _leave(self, name: str, frame: FrameType, reason: str) -> Left:
        trace = self._tracer.trace(frame)
        left = Left(name, trace.owner if trace else None, reason)
        self.record.left.append(left)
        return left

    def _record(self, name: str, activation: Activation | None, x: Tensor) -> Call:
        call = Call(name, activation, tuple(x.shape), channels.channel_dim(x), x.device, noisy=x is self._noisy)
        self.record.calls.append(call)
        return call

    def _overwrites(self, call: Call, x: Tensor) -> None:
        call.inplace, call.given = True, _address(x) in self._given
        self._written.setdefault(_address(x), []).append(call)
        self._storages.append(x.untyped_storage())

    def _note_reads(self, values: Any) -> None:
        if self._written:
            for tensor in _tensors(values):
                for call in self._written.get(_address(tensor), ()):
                    call.read_again = True

    # Modules.

    def hook(self, module: nn.Module) -> Iterator[Any]:
        """Register what this recorder has to know about `module`, a part of the model; gives the handles."""
        yield module.register_forward_pre_hook(self._enter, with_kwargs=True)
        # Also where the call fails, which a model may catch, to call the module in another way.
        yield module.register_forward_hook(self._exit, always_call=True)

    def hook_others(self) -> Iterator[Any]:
        """The same for modules that are no part of the model, such as one made while it runs."""

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self._is_other(module):
                self._enter(module, args, {})

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._is_other(module):
                self._exit(module, args, output)

        yield nn.modules.module.register_module_forward_pre_hook(enter)
        yield nn.modules.module.register_module_forward_hook(leave, always_call=True)

    def _is_other(self, module: nn.Module) -> bool:
        return module not in self._modules and not self._deaf and threading.get_ident() == self._thread

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running = _Running(module, args, kwargs)
        if not self._running:
            self._given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        with self._not_listening():
            if isinstance(module, StochasticActivation):
                self._check(module, args)
                running.closed = True
            else:
                self.record.entered.add(module)
                if not self._closed and (nature := self._natures.declared(module)) is not None:
                    self._note_nature(module, args, nature)
                    running.closed = True
                if isinstance(module, nn.RNNBase) and module.mode == "RNN_RELU":
                    self.record.left.append(Left("relu", module, _STEPS))
        running.before = len(self.record.calls), len(self.record.left), len(self.record.functions)
        self._closed += running.closed
        self._running.append(running)

    def _note_nature(self, module: nn.Module, args: tuple[Any, ...], nature: Nature) -> None:
        """Record that `module` is an activation or a gate as a whole."""
        name, part = type(module).__name__, module if module in self._modules else None
        trace = self._tracer.trace(sys._getframe(1))
        if nature.kind == "gate":
            self.record.left.append(Left(name, part or (trace.owner if trace else None), nature.reason))
        elif args and _why_not(args[0]) is None:
            call = self._record(name, None, args[0])
            call.module, call.trace, call.reason = part, trace, nature.reason

    def _check(self, layer: StochasticActivation, args: tuple[Any, ...]) -> None:
        x = args[0]
        if x.dim() > 0 and x.shape[layer.channel_dim] != layer.num_channels:
            raise RuntimeError(f"a stochastic layer for {layer.num_channels} channels got {tuple(x.shape)}")
        if self._most is not None and len(self.record.ran) > self._most:
            raise EndlessError("it calls its activations again and again")

    def _exit(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running = self._running.pop()
        while running.module is not module:  # one inside was left by an exception
            self._closed -= running.closed
            running = self._running.pop()
        self._closed -= running.closed
        if isinstance(module, StochasticActivation) and isinstance(output, Tensor):  # else the call failed
            self.record.ran.append(module)
            self._noisy = output
            setattr(output, _NOISY, True)
        with self._not_listening():
            if running.closed:
                channels.mark_output("", args, {}, output)
            elif running.call is not None and running.functions == 1 and running.result is output:
                running.call.module = module if module in self._modules else None
                running.call.trace = self._tracer.trace(sys._getframe(1))
                running.call.method = running.call.method and running.call.module is not None
            elif not self._closed and _same_shape(output, args):
                self._tell_by_value(running)
        if self._running and not running.closed:
            self._running[-1].names |= running.names

    def _tell_by_value(self, running: _Running) -> None:
        """Whether the module is an activation or a gate by its values; then what it did inside is taken back."""
        nature = self._natures.by_value(running.module, running.args, running.kwargs, running.names)
        if nature is not None:
            calls, left, functions = running.before
            del self.record.calls[calls:], self.record.left[left:], self.record.functions[functions:]
            self._note_nature(running.module, running.args, nature)

    @contextmanager
    def _not_listening(self) -> Iterator[None]:
        self._deaf += 1
        try:
            yield
        finally:
            self._deaf -= 1

    def operators(self) -> Operators:
        return Operators(self.operator)

    def finish(self, output: Any) -> Record:
        with self._not_listening():
            self._note_reads([output])
            self.record.functions.append(("the output", _outline(output)))
        return self.record


def _why_not(x: Any) -> str | None:
    """Why an activation of x is not a site, if so."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return "its input is no tensor of real numbers"
    if isinstance(x, nn.Parameter):
        return "its input is a parameter"
    channelled = x.dim() > 1 and x.shape[channels.channel_dim(x)] > 0
    return None if channelled else "its input has no batch or no channels"


def _same_shape(output: Any, args: tuple[Any, ...]) -> bool:
    """Whether `output` is another tensor of the shape of the first argument."""
    x = args[0] if args else None
    return isinstance(output, Tensor) and isinstance(x, Tensor) and x is not output and x.shape == output.shape


def _outline(value: Any) -> Any:
    """Shapes of tensors, plain values as they are, and of anything else that is no container its kind."""
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, (tuple, list)):
        return tuple(map(_outline, value))
    if isinstance(value, dict):
        return tuple((key, _outline(item)) for key, item in value.items())
    return value if value is None or isinstance(value, (bool, int, float, str, torch.dtype)) else type(value)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(values.values())
    elif isinstance(values, Iterable) and not isinstance(values, str | Iterator):  # that could be read but once
        for value in values:
            yield from _tensors(value)
