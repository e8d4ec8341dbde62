"""What a user does to the noise of a whole model: look at its layers, switch, scale, freeze, fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from stocnoise.batches import TARGET_NAMES, BatchReader, check_reader, explained, read_batch
from stocnoise.checks import check_model, check_number, check_seed, check_several, check_whole
from stocnoise.input_noise import InputNoise
from stocnoise.layers import StochasticActivation
from stocnoise.normalization import Normalized, warn_if_bare
from stocnoise.undo import attributes_kept, same_modes


def stochastic_layers(model: nn.Module) -> Iterator[tuple[str, StochasticActivation]]:
    """Each stochastic layer of `model` once, as (name, layer), in the order of `model.named_modules()`.

    Example:
        >>> [layer.num_channels for name, layer in stocnoise.stochastic_layers(student)]
        [8]
    """
    check_model("model", model)
    return ((name, module) for name, module in model.named_modules() if isinstance(module, StochasticActivation))


def require_layers(model: nn.Module) -> list[StochasticActivation]:
    """The stochastic layers of `model`; ValueError if there is none."""
    layers = [layer for _, layer in stochastic_layers(model)]
    if not layers:
        raise ValueError("this model has no stochastic layer: convert it first, student = stocnoise.convert(model)")
    return layers


def noise_sources(model: nn.Module) -> list[StochasticActivation | InputNoise]:
    """All that `deterministic` and `fixed_noise` switch: stochastic layers, then noise on the input."""
    layers = [layer for _, layer in stochastic_layers(model)]
    return [*layers, *(module for module in model.modules() if isinstance(module, InputNoise))]


def _require_noise(model: nn.Module) -> list[StochasticActivation | InputNoise]:
    return noise_sources(model) or [*require_layers(model)]


def set_gamma(model: nn.Module, gamma: float) -> None:
    """Set γ ≥ 0, the variance of the noise in units of σ², in every stochastic layer of `model`.

    Example:
        >>> stocnoise.set_gamma(student, 0.1)
    """
    check_number("gamma", gamma)
    for layer in require_layers(model):
        layer.gamma.fill_(gamma)


@contextmanager
def _set(layers: Iterable[nn.Module], name: str, values: Iterable[Any]) -> Iterator[None]:
    """Within the block an attribute of each layer is the value that belongs to it."""
    layers = list(layers)
    with attributes_kept(name, [(layer, getattr(layer, name)) for layer in layers]):
        for layer, value in zip(layers, values, strict=True):
            setattr(layer, name, value)
        yield


@contextmanager
def deterministic(model: nn.Module) -> Iterator[None]:
    """Within the block the noise of `model` is off: each stochastic layer is the activation that stood there.

    Noise on the input is off too, and σ stands still. This is a switch of its own, independent of train and eval mode.

    Example:
        >>> with stocnoise.deterministic(student.eval()):
        ...     torch.equal(student(images), student(images))
        True
    """
    layers = _require_noise(model)
    with _set(layers, "noise", [False] * len(layers)):
        yield


def freeze_sigma(model: nn.Module, frozen: bool = True) -> AbstractContextManager[Any]:
    """Let σ stand still in training too (or move again, with `frozen=False`); the noise stays on.

    Takes effect at once and lasts; as a context manager, `with freeze_sigma(model):`, it lasts for the block.

    Example:
        >>> with stocnoise.freeze_sigma(student):
        ...     logits = student(images)
    """
    layers = require_layers(model)
    before = [(layer, layer.sigma_frozen) for layer in layers]
    for layer in layers:
        layer.sigma_frozen = frozen
    return attributes_kept("sigma_frozen", before)


@contextmanager
def fixed_noise(model: nn.Module, seed: int) -> Iterator[None]:
    """Within the block every call and every row of any batch gets the same noise: one classifier of the student's many.

    Each layer has noise of its own, and the input too, all of it a function of `seed`. σ still moves in training mode.
    A row is an entry along dimension 0 of a layer's input. Where that is not the batch, as in a sequence-first model,
    an answer depends on the whole batch; attacks that rely on fixed noise check this and refuse.

    Example:
        >>> with stocnoise.fixed_noise(student.eval(), seed=0):
        ...     torch.equal(student(images), student(images))
        True
    """
    layers = _require_noise(model)
    check_seed("seed", seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(2**63 - 1, (1,), generator=generator) for _ in layers]
    seeds = [
        int(own) if isinstance(layer, InputNoise) else own.to(layer.sigma.device)
        for layer, own in zip(layers, drawn, strict=True)
    ]
    with _set(layers, "fixed_seed", seeds):
        yield


@torch.no_grad()
def calibrate(model: nn.Module, loader: Iterable[Any], batches: int = 16, *, batch: BatchReader = None) -> None:
    """Fill σ from the first `batches` batches of `loader` without training anything.

    Only the stochastic layers are in training mode; every module's own mode is put back. Afterwards
    σ ≈ (1 − (1−α)^batches) · STD(x), so 16 batches leave nothing to see at the default α = 0.5.

    Args:
        model: a student.
        loader: batches like the example that the model was converted with: a tuple or list that begins with its
            arguments, or a dict that has its keywords; what else there is, such as labels, is ignored. For a model of
            one tensor a tensor, or a tuple, list or dict whose first entry, labels aside, it is.
        batches: how many to use, at least 1.
        batch: entries of a batch by name or number, (input, target, further inputs of the model …), as for `evaluate`.

    Raises:
        ValueError: no stochastic layer, an empty loader, a batch without what the model takes, or `batches` below 1.

    Example:
        >>> stocnoise.calibrate(student, loader, batches=4)
    """
    layers = require_layers(model)
    check_several("loader", loader, "batches")
    check_whole("batches", batches)
    check_reader(batch)
    device = layers[0].sigma.device
    seen = 0
    with same_modes(model):
        model.eval()
        for layer in layers:
            layer.train()
        for seen, given in enumerate(loader, start=1):
            args, kwargs = _arguments(model, given) if batch is None else read_batch(given, batch).arguments()
            args, kwargs = tree_map(lambda v: v.to(device) if hasattr(v, "to") else v, (args, kwargs))
            if seen == 1 and args and isinstance(args[0], torch.Tensor):
                warn_if_bare(model, args[0])
            with explained(model, next(iter([*args, *kwargs.values()]))):
                model(*args, **kwargs)
            if seen == batches:
                break
    if seen == 0:
        raise ValueError("the loader gave no batch, so sigma could not be filled")


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What of `batch` the model takes: by position, by keyword."""
    while isinstance(model, Normalized | InputNoise):
        model = model.model
    conversion = getattr(model, "_stocnoise_conversion", None)
    count, names, tensor = conversion.arguments if conversion is not None else (1, (), True)
    if names:
        missing = [name for name in names if not (isinstance(batch, Mapping) and name in batch)]
        if missing:
            raise ValueError(
                f"this student was converted with {', '.join(names)} as keywords: each batch of the loader must be a "
                f"dict that has them, and this {type(batch).__name__} lacks {', '.join(missing)}"
            )
        return (), {name: batch[name] for name in names}
    if count > 1:
        if not isinstance(batch, (tuple, list)) or len(batch) < count:
            raise ValueError(
                f"this student was converted with {count} arguments: each batch of the loader must be a tuple or list "
                f"that begins with them, not a {type(batch).__name__}"
            )
        return tuple(batch[:count]), {}
    if tensor:
        return (_first_tensor(batch),), {}
    return (batch[0] if isinstance(batch, tuple) else batch,), {}


def _first_tensor(batch: Any) -> torch.Tensor:
    while not isinstance(batch, torch.Tensor):
        if isinstance(batch, Mapping):
            batch = next((value for name, value in batch.items() if name not in TARGET_NAMES), None)
        elif isinstance(batch, tuple | list) and batch:
            batch = batch[0]
        else:
            raise ValueError(f"a batch of the loader must hold a tensor first, not {type(batch).__name__}: say batch=")
    return batch
