"""Running a model without its memory, in train and in eval mode."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stocnoise.conversion.example import Example
from stocnoise.conversion.finding.calls import Record
from stocnoise.conversion.finding.chance import FIRST, IF_DRAWN, IF_SEEDED, TURNS, Chance
from stocnoise.conversion.finding.natures import Natures
from stocnoise.conversion.finding.places import Views, paths_of
from stocnoise.conversion.finding.probe import Prober
from stocnoise.conversion.finding.recorder import EndlessError
from stocnoise.conversion.finding.shapes import shorten
from stocnoise.conversion.finding.skeleton import fake_mode_for, own_hooks, skeleton
from stocnoise.errors import ExampleInputError
from stocnoise.layers import StochasticActivation


@dataclass
class Run:
    """One run of a skeleton."""

    training: bool
    chance: Chance
    record: Record

    def __str__(self) -> str:
        return "train" if self.training else "eval"


@dataclass
class Survey:
    """What runs in train mode and in eval mode showed of the skeleton `views.model`."""

    views: Views
    runs: list[Run]
    unwatched: Counter[str]
    """How often each stochastic layer runs in eval mode when nobody watches, by its path."""


def survey(
    model: nn.Module, examples: Sequence[Example], most: int | None = None, whole: Set[str] = frozenset()
) -> Survey:
    """Run a skeleton of `model`: with fake tensors, or where the model needs values, with real ones.

    Args:
        model: teacher or student; the noise of a student is off.
        examples: at least one.
        most: calls of stochastic layers after which a run is given up.
        whole: paths of modules that are activations as a whole, known before.

    Raises:
        ExampleInputError: the model does not run on `examples`.
    """
    # Tensors on the meta device take no memory as they are, and their operations are cheaper than those of fake ones.
    fake = None if _all_meta(model) else fake_mode_for(model)
    try:
        with TURNS, _silence():
            return _survey(model, examples, fake, most, whole)
    except Exception as error:
        refused = error
    if not any(t.is_meta or isinstance(t, torch._subclasses.FakeTensor) for t in model.parameters()):
        try:  # outside of the block above: one traceback is printed before our error, not two
            with TURNS:
                return _survey(model, examples, None, most, whole)
        except Exception as error:
            refused = error
    raise _did_not_run(examples[0], refused) from refused


@contextmanager
def _silence() -> Iterator[None]:
    """Without the log that PyTorch writes of each operator that has no fake version."""
    log = logging.getLogger(fake_tensor.__name__)
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def _all_meta(model: nn.Module) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return bool(tensors) and all(type(t) in (torch.Tensor, nn.Parameter) and t.is_meta for t in tensors)


def _survey(
    model: nn.Module, examples: Sequence[Example], fake: FakeTensorMode | None, most: int | None, whole: Set[str]
) -> Survey:
    views = Views(skeleton(model, fake))
    try:
        found = _run(views, examples, fake, most, whole)
    except Exception:
        if not views:
            raise
    else:
        if not views.keep_state():
            return found
    # One of its modules may pass something on, from a call in one place to a call in another.
    return _run(Views(skeleton(model, fake), leaves_only=True), examples, fake, most, whole)


def _run(
    views: Views, examples: Sequence[Example], fake: FakeTensorMode | None, most: int | None, whole: Set[str]
) -> Survey:
    model = views.model
    own_hooks(model)
    shorten(model)
    layers = [module for module in model.modules() if isinstance(module, StochasticActivation)]
    for layer in layers:
        layer.noise = False  # what a student computes without noise decides as its model does
    natures = Natures(model.get_submodule(path) for path in whole)
    runs: list[Run] = []
    unwatched: list[nn.Module] = []
    for example in examples:
        args, kwargs = example.map(lambda t: fake.from_tensor(t, static_shapes=True) if fake else t.clone())
        prober = Prober(model, args, kwargs, fake, natures, most)
        for training in (True, False):
            runs += _observe(prober, training)
            views.note_state()
        unwatched += prober.observe_layers() if layers else []
    called = set().union(*(run.record.modules() for run in runs))
    stands = views.reunite(called.__contains__)
    for run in runs:
        for left in run.record.left:
            left.module = stands.get(left.module, left.module) if left.module is not None else None
    paths = paths_of(model)
    return Survey(views, runs, Counter(paths[layer] for layer in unwatched))


def _observe(prober: Prober, training: bool) -> Iterator[Run]:
    """A run, and further ones if chance decided anything in it that could be otherwise."""
    record, drawn, seeded = prober.observe(training, FIRST)
    yield Run(training, FIRST, record)
    for chance in (*(IF_DRAWN if drawn else ()), *(IF_SEEDED if seeded else ())):
        try:
            yield Run(training, chance, prober.observe(training, chance)[0])
        except EndlessError:
            raise
        except Exception:  # such as where nothing is left when everything is skipped
            continue


def _did_not_run(example: Example, error: Exception) -> ExampleInputError:
    first = str(error).strip().splitlines() or [""]
    return ExampleInputError(
        f"the model did not run on the example input ({type(error).__name__}: {first[0]}); {example.advice()}"
    )
