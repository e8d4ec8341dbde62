"""A test of the attack rather than of the model: adversarial inputs that are known to exist must be found."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stocnoise.attacks import PGD, RandomNoise
from stocnoise.attacks.modes import inner
from stocnoise.batches import Batch
from stocnoise.evaluation.subject import Subject
from stocnoise.tasks import as_task
from stocnoise.undo import handles

_INNER, _RANDOM, _RIDGE = 100, 100, 0.1
_CLOSENESS = 0.7


class Found(NamedTuple):
    """The share of the inputs for which the adversarial input was found."""

    attack: float
    random: float


class NoClassifierError(ValueError):
    """The model has no last linear layer with a vector for each input before it."""


def binarisation(subject: Subject, batch: Batch, attack: PGD, draws: int) -> Found:
    """How often `attack` finds what is known to be there, and how often random search with a hundred tries does.

    The last layer is replaced, for each input, by a linear separator of its features between a hundred points in the
    inner half of the ball and one on its surface. That point is an adversarial input of the new classifier, whose
    answer is the mean over draws. An attack that fits the model finds one in nearly all cases.

    Raises:
        NoClassifierError: there is no such layer.

    Source: Zimmermann, Brendel, Tramèr, Carlini, NeurIPS 2022.
    """
    features = _Features(subject, _classifier(subject.model))
    x, y = batch.x, torch.zeros(len(batch.x), device=batch.x.device)
    attack = attack.with_defaults(bounds=subject.bounds, mask=subject.mask)
    half = dataclasses.replace(attack, eps=attack.eps / 2)
    surface = RandomNoise(eps=attack.eps, norm=attack.norm, bounds=attack.bounds, mask=attack.mask, task="binary")

    def mean(points: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([features.of(points, batch) for _ in range(draws)]).mean(0)

    inside = [mean(x), *(mean(half.ball(x).random()) for _ in range(_INNER - 1))]
    separator = _Separator.between(torch.stack(inside, 1), mean(surface(features, x, y, others=batch.others)))
    binary = _Binary(features, separator)
    asked = dataclasses.replace(subject, model=binary, task=as_task("binary"), targets=None)
    found = asked.attack(attack, batch._replace(y=y))
    tries = [surface(features, x, y, others=batch.others) for _ in range(_RANDOM)]
    hits = torch.stack([separator(mean(points)) > 0 for points in tries]).any(0)
    return Found((separator(mean(found)) > 0).float().mean().item(), hits.float().mean().item())


def _classifier(model: nn.Module) -> nn.Module:
    """The last layer: by the model's own `get_classifier`, as timm's have it, else the last Linear."""
    for module in model.modules():
        if callable(get := getattr(module, "get_classifier", None)):
            found = get()
            if isinstance(found, nn.Linear):
                return found
    linear = [module for module in inner(model).modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise NoClassifierError("the model has no Linear layer")
    return linear[-1]


class _Features(nn.Module):
    """What the last layer of a model is given."""

    def __init__(self, subject: Subject, classifier: nn.Module) -> None:
        super().__init__()
        self.model, self.classifier, self.training = subject.model, [classifier], False

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        seen: list[Tensor] = []
        with handles() as held:
            held.append(self.classifier[0].register_forward_pre_hook(lambda module, given: seen.append(given[0])))
            self.model(*args, **kwargs)
        rows = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))
        if len(seen) != 1 or seen[0].dim() != 2 or len(seen[0]) != rows:
            raise NoClassifierError("what its last layer is given is not one vector for each input")
        return seen[0]

    def of(self, x: Tensor, batch: Batch) -> Tensor:
        """(B, features), in float64."""
        return (self(x) if batch.others is None else batch.others.call(self, x)).double()


class _Separator(nn.Module):
    """w_i·h + b_i for each input i; draws stacked along the batch come one whole batch after the other."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    @classmethod
    def between(cls, inside: Tensor, outside: Tensor) -> _Separator:
        """By ridge regression to −1 for each of (B, n, d) and +1 for (B, d), the threshold close to the latter."""
        centre = inside.mean(1, keepdim=True)
        points = torch.cat([inside, outside[:, None]], 1) - centre
        wanted = torch.full(points.shape[:2], -1.0, dtype=points.dtype, device=points.device)
        wanted[:, -1] = 1.0
        gram = points @ points.mT
        ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-12)
        solved = torch.linalg.solve(gram + ridge * torch.eye(gram.shape[1]).to(gram), wanted[..., None])
        weight = (points.mT @ solved).squeeze(2)
        values = (points @ weight[..., None]).squeeze(2)
        most, known = values[:, :-1].amax(1), values[:, -1]
        scale = (known - most).clamp_min(1e-12)
        threshold = most + _CLOSENESS * (known - most)
        bias = -(centre.squeeze(1) * weight).sum(1) - threshold
        return cls(weight / scale[:, None], bias / scale)

    def forward(self, h: Tensor) -> Tensor:
        times = len(h) // len(self.weight)
        return (h.double() * self.weight.repeat(times, 1)).sum(1) + self.bias.repeat(times)


class _Binary(nn.Module):
    """The features under their separators, as one logit."""

    def __init__(self, features: _Features, separator: _Separator) -> None:
        super().__init__()
        self.features, self.separator, self.training = features, separator, False

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.separator(self.features(*args, **kwargs)).float()
