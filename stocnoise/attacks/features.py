"""What a layer of a model is given: the features before its classifier, as an answer of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from stocnoise.attacks.modes import inner
from stocnoise.undo import handles


class NoClassifierError(ValueError):
    """The model has no last linear layer that is called once, with a row for each input."""


def classifier(model: nn.Module) -> nn.Module:
    """The last layer: by the model's own `get_classifier`, as timm's have it, else the last Linear.

    Raises:
        NoClassifierError: there is none.
    """
    for module in model.modules():
        if callable(get := getattr(module, "get_classifier", None)):
            found = get()
            if isinstance(found, nn.Linear):
                return found
    linear = [module for module in inner(model).modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise NoClassifierError("the model has no Linear layer")
    return linear[-1]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, what `layer` is given in each of its calls, its first input."""
    seen: list[Tensor] = []
    with handles() as held:
        held.append(layer.register_forward_pre_hook(lambda module, given: seen.append(given[0])))
        yield seen


def the_one(seen: list[Tensor], rows: int) -> Tensor:
    """What a layer was given in a pass over `rows` inputs.

    Raises:
        NoClassifierError: it was not called once, or given no row for each input.
    """
    if len(seen) != 1:
        raise NoClassifierError(f"its last layer is called {len(seen)} times in a pass, not once")
    if seen[0].dim() < 2 or len(seen[0]) != rows:
        raise NoClassifierError("what its last layer is given is not one vector for each input")
    return seen[0]


@contextmanager
def hooks_seen(model: nn.Module) -> Iterator[None]:
    """Within the block a compiled model is compiled anew for a hook, which PyTorch otherwise takes to stay."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        from torch._dynamo import config

        with config.patch(skip_nnmodule_hook_guards=False):
            yield
    else:
        yield


class Features(nn.Module):
    """A model that answers with what one of its layers is given, and is left without a trace of it.

    Args:
        model: in the mode that it is to be asked in, which is this one's.
        layer: of the model.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.model, self.layer, self.training = model, [layer], model.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        with inputs_of(self.layer[0]) as seen:
            self.model(*args, **kwargs)
        return the_one(seen, len(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))))
