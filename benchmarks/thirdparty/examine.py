"""One model: counted, converted, counted again, and its student compared with it."""

from __future__ import annotations

import copy
import io
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import stocnoise
from benchmarks.thirdparty.counting import Count, count
from benchmarks.thirdparty.entry import Entry
from stocnoise.conversion import conversion_of

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def examine(entry: Entry) -> dict[str, Any]:
    """`result`: exact, refused (with the `reason`), wrong, crash, or not built.

    `train`, `eval`: activation calls of the model, stochastic calls of the student, activation calls left in it.
    `layers`: stochastic layers. `seconds`: processor time of the conversion.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        model, example = entry.build()
        if not entry.meta:
            _fill(model)
        arguments = _arguments(example)
        before = [count(copy.deepcopy(model), *_fresh(arguments), training=training) for training in (True, False)]
    except Exception as error:
        return {"result": "not built", "reason": _brief(error)}
    start = time.process_time()
    try:
        student = stocnoise.convert(model, example)
    except stocnoise.ConversionError as error:
        return {"result": "refused", "reason": _brief(error)}
    except Exception as error:
        return {"result": "crash", "reason": _brief(error)}
    line: dict[str, Any] = {"seconds": round(time.process_time() - start, 2)}
    layers = dict(stocnoise.stochastic_layers(student))
    next(iter(layers.values())).notice.given = True  # that it is uncalibrated, for which values are read
    try:
        with stocnoise.fixed_noise(student, 0):  # which draws no random numbers of the model's own
            after = [count(copy.deepcopy(student), *_fresh(arguments), training=training) for training in (True, False)]
        for mode, b, a in zip(("train", "eval"), before, after, strict=True):
            line[mode] = [b.bare, a.stochastic.total(), a.bare]
        faults = [*_miscounted(student, before, after), *(() if entry.meta else _faults(model, student, arguments))]
    except Exception as error:
        faults = [f"the student does not run: {_brief(error)}"]
    if faults:
        return line | {"result": "wrong", "reason": "; ".join(faults)}
    return line | {"result": "exact", "layers": len(layers)}


def _miscounted(student: nn.Module, before: list[Count], after: list[Count]) -> Iterator[str]:
    """Sites that were told by their values may be more than names tell."""
    by_value = {path for path, site in conversion_of(student).layers if site.reason}
    for mode, b, a in zip(("train", "eval"), before, after, strict=True):
        told = sum(calls for path, calls in a.stochastic.items() if path in by_value)
        if a.bare or not a.stochastic.total() - told <= b.bare <= a.stochastic.total():
            yield f"{mode}: {b.bare} activations, {a.stochastic.total()} stochastic ({told} by value), {a.bare} left"


def _faults(model: nn.Module, student: nn.Module, arguments: Arguments) -> Iterator[str]:
    """What the student does otherwise than it should, on values."""
    for training in (False, True):
        theirs, again = (_outputs(copy.deepcopy(model), arguments, training) for _ in range(2))
        with stocnoise.deterministic(student):
            ours = _outputs(copy.deepcopy(student), arguments, training)
        if _equal(theirs, again) and not _equal(theirs, ours):
            yield f"without noise another output, training={training}"
    student.load_state_dict(model.state_dict())
    copy.deepcopy(model).load_state_dict(stocnoise.revert(student).state_dict())
    stocnoise.set_gamma(student, 0.5)
    yield from _trained(student, arguments)
    noisy = [_outputs(student, arguments, False, seed) for seed in (1, 2)]
    if _equal(*noisy):
        yield "noise changes nothing"
    if not _equal(noisy[0], _outputs(copy.deepcopy(student), arguments, False, 1)):
        yield "a copy has another output"
    if _pickles(model) and not _equal(noisy[0], _outputs(_restored(student), arguments, False, 1)):
        yield "a pickled student has another output"


def _trained(student: nn.Module, arguments: Arguments) -> Iterator[str]:
    """One training step's gradients, and whether σ moved wherever a layer ran."""
    before = {name: layer.num_batches_tracked.item() for name, layer in stocnoise.stochastic_layers(student)}
    counted = count(copy.deepcopy(student), *_fresh(arguments), training=True)
    torch.manual_seed(0)
    student.train().requires_grad_()
    args, kwargs = _fresh(arguments)
    outputs = [y for y in _tensors(student(*args, **kwargs)) if y.requires_grad and y.is_floating_point()]
    if outputs and any(True for _ in student.parameters()):
        sum((y.float().square().mean() for y in outputs), torch.zeros(())).backward()
        gradients = [p.grad for p in student.parameters() if p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            yield "no gradient"
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            yield "a gradient that is not finite"
    for name, layer in stocnoise.stochastic_layers(student):
        if counted.stochastic[name] and layer.num_batches_tracked.item() == before[name]:
            yield f"σ of {name} stands still"
    student.zero_grad()


def _outputs(model: nn.Module, arguments: Arguments, training: bool, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    args, kwargs = _fresh(arguments)
    with torch.no_grad():
        return _tensors(model.train(training)(*args, **kwargs))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping) or hasattr(value, "to_tuple"):
        value = dict(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (Tensor, list, tuple)):
        value = vars(value)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.equal(_plain(x), _plain(y)) for x, y in zip(a, b, strict=True)
    )


def _plain(x: Tensor) -> Tensor:
    return x.nan_to_num() if x.is_floating_point() else x


def _fill(model: nn.Module) -> None:
    """Weights that begin at zero, or next to it, hide what comes before them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.1)


def _arguments(example: Any) -> Arguments:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _fresh(arguments: Arguments) -> Arguments:
    fresh: Arguments = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, arguments)
    return fresh


def _pickles(model: nn.Module) -> bool:
    try:
        pickle.dumps(model)
    except Exception:
        return False
    return True


def _restored(student: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    restored: nn.Module = torch.load(file, weights_only=False)
    return restored


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
