"""Attacks that see decisions alone, Boundary and HopSkipJump, through foolbox."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import per_row
from stocnoise.attacks.base import MinimumNormAttack
from stocnoise.attacks.frozen import frozen
from stocnoise.attacks.libraries import Classifier, Scale, check_classes, class_labels, contained, refuse, require
from stocnoise.attacks.target import Target
from stocnoise.checks import check_choice, check_whole
from stocnoise.tasks import Task

Noise = Literal["frozen", "raw"]

# A raw model is asked this often before an image counts as a start, because one start of a batch that is found
# classified rightly ends the attack, and the whole attack is begun again this often.
_RAW_DRAWS = 64
_RAW_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class _Decision(MinimumNormAttack):
    steps: int
    noise: Noise = "frozen"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_choice("noise", self.noise, get_args(Noise))

    @abstractmethod
    def _attack(self, foolbox: Any) -> Any:
        """The attack of foolbox with these settings."""

    def check_task(self, task: Task) -> None:
        check_classes(task, type(self).__name__)

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        foolbox = require("foolbox", "foolbox")
        refuse(type(self).__name__, self.mask, target)
        y = class_labels(y)
        scale = Scale(x.float(), self.bounds)
        images, classifier = scale.images(x.float()), Classifier(target, scale)
        with contained(x, generator) as seed, torch.no_grad(), self._asked(classifier, seed, images) as model:
            draws = 1 if self.noise == "frozen" else _RAW_DRAWS
            rows, usable = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.bool)
            # Begun again with the usable rows alone, because noise that is not ours may depend on the batch.
            while len(rows) and not usable.all():
                starts, usable = _starting_points(model, images[rows], y[rows], draws)
                rows, starts = rows[usable], starts[usable]
            if len(rows) == 0:
                return x
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            found = self._search(self._attack(foolbox), wrapped, images[rows], y[rows], starts)
        return x.index_copy(0, rows, scale.inputs(found).to(x.dtype))

    def _asked(self, model: nn.Module, seed: int, x: Tensor) -> AbstractContextManager[nn.Module]:
        return frozen(model, seed, x) if self.noise == "frozen" else nullcontext(model)

    def _search(self, attack: Any, model: Any, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
        tries = 1 if self.noise == "frozen" else _RAW_TRIES
        for attempt in range(1, tries + 1):
            try:
                return attack.run(model, x, y, starting_points=starts)
            except (
                ValueError,
                AssertionError,
            ) as error:  # what foolbox raises when an answer contradicts an earlier one
                if attempt == tries:
                    raise InconsistentAnswersError(type(self).__name__) from error
        raise AssertionError("unreachable")


class InconsistentAnswersError(RuntimeError):
    """A decision-based attack could not run because the model answers differently each time."""

    def __init__(self, attack: str) -> None:
        super().__init__(
            f"{attack} needs a model that answers the same each time, and gave up: use noise='frozen', or a model "
            "without noise of its own"
        )


def _starting_points(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """For each image a misclassified one to start from, and whether there is one.

    Candidates are the other images of the batch in turn, the nearest first, then uniform noise; `draws` answers must
    all be wrong.
    """
    starts, usable = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    order = distance.argsort(dim=1)
    noise = [torch.rand_like(x) for _ in range(8)]
    for candidate in [*(x[order[:, i]] for i in range(1, min(len(x), 32))), *noise]:
        wrong = torch.stack([model(candidate).argmax(1) != y for _ in range(draws)]).all(0)
        fresh = wrong & ~usable
        starts = torch.where(per_row(fresh, x), candidate, starts)
        usable |= fresh
        if usable.all():
            break
    return starts, usable


@dataclass(frozen=True, kw_only=True)
class Boundary(_Decision):
    """Boundary Attack: a walk along the decision boundary towards x; needs `stocnoise[foolbox]`.

    Args:
        steps: of the walk; one query each.
        noise: "frozen" asks one classifier drawn from the stochastic model, the same at every query. "raw" asks the
            model itself, as published evaluations do: there the walk follows single lucky draws to points that fool
            hardly any other, and the model looks robust.

    Source: Brendel, Rauber, Bethge, ICLR 2018.

    Example:
        >>> adversarial = stocnoise.Boundary(steps=10)(student, images, labels)
    """

    steps: int = 1000

    def _attack(self, foolbox: Any) -> Any:
        return foolbox.attacks.BoundaryAttack(steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(_Decision):
    """HopSkipJump: gradients of the decision boundary estimated from queries; needs `stocnoise[foolbox]`.

    Args:
        steps: estimated gradients.
        queries: of the first estimate; the t-th takes √t times as many.
        noise: "frozen", see `Boundary`. On a raw stochastic model its inner searches need not end, so "raw" is refused.

    Source: Chen, Jordan, Wainwright, S&P 2020.

    Example:
        >>> adversarial = stocnoise.HopSkipJump(steps=1, queries=10)(student, images, labels)
    """

    steps: int = 20
    queries: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("queries", self.queries)
        if self.noise == "raw":
            raise ValueError("HopSkipJump cannot run on raw noise, where its searches need not end: use noise='frozen'")

    def _attack(self, foolbox: Any) -> Any:
        return foolbox.attacks.HopSkipJumpAttack(
            steps=self.steps, initial_gradient_eval_steps=self.queries, max_gradient_eval_steps=100 * self.queries
        )
