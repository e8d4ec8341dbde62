"""Layers whose gradient does not tell how they change, and an attack that passes through them (BPDA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stocnoise.batches import Batch
from stocnoise.evaluation.subject import Subject
from stocnoise.undo import handles

_POINTS = 32
_UNEXPLAINED = 0.05


def misleading_layers(subject: Subject, batch: Batch) -> list[tuple[str, nn.Module]]:
    """The innermost modules that keep their input's shape and change by more than their gradient accounts for.

    Along a line a of one standard deviation to either side, |f(x + a) − f(x − a)| is held against the integral of the
    gradient: a ReLU's is all of it, a rounding's, a dead zone's or an argmax's is not. Random layers answer with the
    same noise at every point.
    """
    found: dict[str, nn.Module] = {}
    for name, (module, x) in _calls(subject, batch).items():
        if _unexplained(module, x) > _UNEXPLAINED:
            found[name] = module
    return [(name, each) for name, each in found.items() if not any(k.startswith(f"{name}.") for k in found)]


@contextlib.contextmanager
def straight_through(modules: list[nn.Module]) -> Iterator[None]:
    """Within the block the gradient passes through these modules as through the identity (Athalye et al. 2018)."""

    def passed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return args[0] + (output - args[0]).detach()

    with handles() as held:
        for module in modules:
            held.append(module.register_forward_hook(passed))
        yield


@torch.no_grad()
def _calls(subject: Subject, batch: Batch) -> dict[str, tuple[nn.Module, Tensor]]:
    """The modules whose first call took one tensor and gave one of its shape, with that input."""
    calls: dict[str, tuple[nn.Module, Tensor]] = {}
    seen: set[str] = set()

    def noted(name: str) -> object:
        def hook(module: nn.Module, args: object, output: object) -> None:
            if name in seen:
                return
            seen.add(name)
            one = args[0] if isinstance(args, tuple) and len(args) == 1 else None
            if not (isinstance(one, Tensor) and isinstance(output, Tensor) and one.is_floating_point()):
                return
            if output.shape == one.shape and output.is_floating_point():
                calls[name] = (module, one.detach().clone())

        return hook

    with handles() as held:
        for name, module in subject.model.named_modules():
            if name:
                held.append(module.register_forward_hook(noted(name)))
        subject.output(batch)
    return calls


def _unexplained(module: nn.Module, x: Tensor) -> float:
    """The share of a layer's change that the integral of its gradient misses."""
    side = (torch.randint(0, 2, x.shape, device=x.device) * 2 - 1) * x.std()

    def answer(point: Tensor) -> Tensor:
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(0)
            return module(point.clone())  # which it may overwrite, as nn.ReLU(inplace=True) does

    with torch.no_grad():
        change = (answer(x + side) - answer(x - side)).double()
    total = change.abs().sum()
    if not total > 0:
        return 0.0
    explained = torch.zeros((), dtype=torch.float64, device=x.device)
    weights = change.sign().to(x.dtype)
    for i in range(_POINTS):
        point = (x + side * (2 * (i + 0.5) / _POINTS - 1)).requires_grad_()
        with torch.enable_grad():
            output = answer(point)
            if not output.requires_grad:
                return 1.0
            (gradient,) = torch.autograd.grad((output * weights).sum(), point, allow_unused=True)
        if gradient is not None:
            explained += (gradient.double() * side.double()).sum() * 2 / _POINTS
    return ((total - explained).abs() / total).item()
