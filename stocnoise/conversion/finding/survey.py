"""Running a model without its memory, in train and in eval mode."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stocnoise.conversion.example import Example
from stocnoise.conversion.finding.places import Views, paths_of
from stocnoise.conversion.finding.probe import Record, observe, observe_layers
from stocnoise.conversion.finding.shapes import shorten
from stocnoise.conversion.finding.skeleton import fake_mode_for, own_hooks, skeleton
from stocnoise.errors import ExampleInputError
from stocnoise.layers import StochasticActivation


@dataclass
class Survey:
    """What a run in train mode and one in eval mode showed of the skeleton `views.model`."""

    views: Views
    train: Record
    eval: Record
    unwatched: Counter[str]
    """How often each stochastic layer runs in eval mode when nobody watches, by its path."""


def survey(model: nn.Module, example: Example) -> Survey:
    """Run a skeleton of `model`: with fake tensors, or where the model needs values, with real ones.

    Raises:
        ExampleInputError: the model does not run on `example`.
    """
    # Tensors on the meta device take no memory as they are, and their operations are cheaper than those of fake ones.
    fake = None if _all_meta(model) else fake_mode_for(model)
    try:
        return _survey(model, example, fake)
    except Exception as on_fake:
        if any(t.is_meta or isinstance(t, torch._subclasses.FakeTensor) for t in model.parameters()):
            raise _did_not_run(example, on_fake) from on_fake
        try:
            return _survey(model, example, None)
        except Exception as error:
            raise _did_not_run(example, error) from error


def _all_meta(model: nn.Module) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return bool(tensors) and all(type(t) in (torch.Tensor, nn.Parameter) and t.is_meta for t in tensors)


def _survey(model: nn.Module, example: Example, fake: FakeTensorMode | None) -> Survey:
    views = Views(skeleton(model, fake))
    try:
        found = _run(views, example, fake)
    except Exception:
        if not views:
            raise
    else:
        if not views.keep_state():
            return found
    # One of its modules may pass something on, from a call in one place to a call in another.
    return _run(Views(skeleton(model, fake), leaves_only=True), example, fake)


def _run(views: Views, example: Example, fake: FakeTensorMode | None) -> Survey:
    model = views.model
    own_hooks(model)
    shorten(model)
    layers = [module for module in model.modules() if isinstance(module, StochasticActivation)]
    for layer in layers:
        layer.notice.given = True  # it would look at values
    args, kwargs = example.map(lambda t: fake.from_tensor(t, static_shapes=True) if fake else t.clone())
    train = observe(model, args, kwargs, training=True, fake=fake)
    views.note_state()
    evaluation = observe(model, args, kwargs, training=False, fake=fake)
    views.note_state()
    unwatched = observe_layers(model, args, kwargs, fake) if layers else []
    called = train.modules() | evaluation.modules()
    stands = views.reunite(called.__contains__)
    for record in (train, evaluation):
        record.left = [(name, stands.get(owner, owner) if owner else None, why) for name, owner, why in record.left]
    paths = paths_of(model)
    return Survey(views, train, evaluation, Counter(paths[layer] for layer in unwatched))


def _did_not_run(example: Example, error: Exception) -> ExampleInputError:
    first = str(error).strip().splitlines() or [""]
    return ExampleInputError(
        f"the model did not run on the example input ({type(error).__name__}: {first[0]}); {example.advice()}"
    )
