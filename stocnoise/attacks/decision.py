"""Attacks that see decisions alone, Boundary and HopSkipJump, through foolbox."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from stocnoise.attacks.ball import Norm, check_norm, per_row
from stocnoise.attacks.base import MinimumNormAttack
from stocnoise.attacks.frozen import frozen
from stocnoise.attacks.libraries import Classifier, Scale, check_classes, class_labels, contained, refuse, require
from stocnoise.attacks.questions import Questions, SpentError
from stocnoise.attacks.target import Target
from stocnoise.checks import check_choice, check_whole
from stocnoise.tasks import Task

Noise = Literal["frozen", "raw"]
Self = TypeVar("Self", bound="_Decision")

# A raw model is asked this often before an image counts as a start, because one start of a batch that is found
# classified rightly ends the attack, and the whole attack is begun again this often.
_RAW_DRAWS = 64
_RAW_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class _Decision(MinimumNormAttack):
    steps: int
    noise: Noise = "frozen"
    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps)
        check_choice("noise", self.noise, get_args(Noise))
        if self.budget is not None:
            check_whole("budget", self.budget, least=self.eot)
        if self.budget is not None and self.noise == "frozen":
            raise ValueError("who has a budget of queries may only ask, and cannot freeze the noise: say noise='raw'")

    def asking(self: Self, queries: int, answers: int) -> Self:
        return dataclasses.replace(self, steps=queries, budget=queries, eot=answers, noise="raw")

    @abstractmethod
    def _attack(self, foolbox: Any) -> Any:
        """The attack of foolbox with these settings."""

    def _nearness(self) -> Norm:
        """The norm in which the attack wants to be near."""
        return "l2"

    def check_task(self, task: Task) -> None:
        check_classes(task, type(self).__name__)

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        foolbox = require("foolbox", "foolbox")
        refuse(type(self).__name__, self.mask, target)
        y = class_labels(y)
        scale = Scale(x.float(), self.bounds)
        images, classifier = scale.images(x.float()), Classifier(target, scale)
        with contained(x, generator) as seed, torch.no_grad(), self._asked(classifier, seed, images) as model:
            if self.budget is not None:
                return scale.inputs(self._at_a_budget(foolbox, model, images, y, self.budget)).to(x.dtype)
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

    def _at_a_budget(self, foolbox: Any, model: nn.Module, x: Tensor, y: Tensor, budget: int) -> Tensor:
        """For each image the nearest that it saw misclassified before its queries were spent."""
        questions = Questions(model, x, y, budget, self.eot, self._nearness())
        with suppress(SpentError):
            starts = questions.starts(_candidates(x))
            asked = foolbox.PyTorchModel(questions, bounds=(0, 1), device=x.device)
            self._attack(foolbox).run(asked, x, torch.zeros_like(y), starting_points=starts)
        return questions.nearest

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
    """For each image a misclassified one to start from, and whether there is one; `draws` answers must all be wrong."""
    starts, usable = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for candidate in _candidates(x):
        wrong = torch.stack([model(candidate).argmax(1) != y for _ in range(draws)]).all(0)
        fresh = wrong & ~usable
        starts = torch.where(per_row(fresh, x), candidate, starts)
        usable |= fresh
        if usable.all():
            break
    return starts, usable


def _candidates(x: Tensor) -> Iterator[Tensor]:
    """Images to start from: the others of the batch in turn, the nearest first, then uniform noise."""
    order = torch.cdist(x.flatten(1), x.flatten(1)).argsort(dim=1)
    noise = [torch.rand_like(x) for _ in range(8)]
    yield from (x[order[:, i]] for i in range(1, min(len(x), 32)))
    yield from noise


@dataclass(frozen=True, kw_only=True)
class Boundary(_Decision):
    """Boundary Attack: a walk along the decision boundary towards x; needs `stocnoise[foolbox]`.

    Args:
        steps: of the walk; one query each.
        noise: "frozen" asks one classifier drawn from the stochastic model, the same at every query. "raw" asks the
            model itself, as published evaluations do: there the walk follows single lucky draws to points that fool
            hardly any other, and the model looks robust.
        budget: with noise="raw", queries for an image, the search for a start among them; the attack ends with them,
            whatever `steps` says, at the nearest image that was answered as it wants. A question is decided by the
            majority of `eot` answers and costs as many queries. None: not counted, and `eot` is not used.

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
        noise: "frozen", see `Boundary`. On a raw stochastic model its inner searches need not end, so "raw" needs a
            budget.
        budget: see `Boundary`.
        norm: what is to be small, "l2" or "inf".

    Source: Chen, Jordan, Wainwright, S&P 2020.

    Example:
        >>> adversarial = stocnoise.HopSkipJump(steps=1, queries=10)(student, images, labels)
    """

    steps: int = 20
    queries: int = 50
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("queries", self.queries)
        check_norm(self.norm)
        if self.noise == "raw" and self.budget is None:
            raise ValueError("HopSkipJump cannot run on raw noise, where its searches need not end: use noise='frozen'")

    def _nearness(self) -> Norm:
        return self.norm

    def _attack(self, foolbox: Any) -> Any:
        attack = foolbox.attacks.HopSkipJumpAttack if self.budget is None else _row_by_row(foolbox)
        return attack(
            steps=self.steps,
            initial_gradient_eval_steps=self.queries,
            max_gradient_eval_steps=100 * self.queries,
            constraint={"l2": "l2", "inf": "linf"}[self.norm],
        )


def _row_by_row(foolbox: Any) -> Any:
    """foolbox's HopSkipJump with each image's direction of length 1; its own has the length 1 over the whole batch,
    and steps that shrink with the batch's size.
    """

    class RowByRow(foolbox.attacks.HopSkipJumpAttack):
        def approximate_gradients(self, *args: Any) -> Any:
            gradients = super().approximate_gradients(*args)
            lengths = torch.linalg.vector_norm(gradients.raw.flatten(1), dim=1).clamp_min(1e-12)
            return type(gradients)(gradients.raw / per_row(lengths, gradients.raw))

    return RowByRow
