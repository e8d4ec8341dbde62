"""The attack to measure randomised classifiers by: for each image the best of several, in stages of growing budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stocnoise.attacks import APGD, PGD, BallAttack
from stocnoise.attacks.frozen import frozen
from stocnoise.attacks.losses import margin
from stocnoise.batches import Batch
from stocnoise.checks import check_all, check_several, check_text, check_whole
from stocnoise.controls import deterministic
from stocnoise.evaluation.cascade import better, standing
from stocnoise.evaluation.inputs import Counted, uncounted
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.stages import CandidateTally, StageTally
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import Tally, Trial, seed_all
from stocnoise.predictors import one_draw, samples_of

Name = Literal["pgd", "apgd", "apgd-margin", "frozen draw", "noise off", "parent"]


@dataclass(frozen=True)
class Budget:
    """One stage: its attacks, each with `steps` gradients of `tries` draws.

    Against a model without noise as many restarts; on a frozen draw, on the noise switched off and on the parent, which
    have none either, half as many.
    """

    steps: int
    tries: int
    attacks: tuple[Name, ...] = ("pgd", "apgd", "apgd-margin", "frozen draw", "noise off", "parent")

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_whole("tries", self.tries)
        check_several("attacks", self.attacks, f"of {', '.join(get_args(Name))}")
        if not self.attacks or set(self.attacks) - set(get_args(Name)):
            raise ValueError(f"attacks must be of {', '.join(get_args(Name))}, not {self.attacks!r}")


@dataclass(frozen=True)
class Strongest:
    """For each image the best of several attacks, in stages, each on the images that still stand.

    | attack | how |
    |---|---|
    | "pgd", "apgd" | on the task's loss, averaged over draws (EOT) |
    | "apgd-margin" | on the margin, where the task has one; else as "apgd" |
    | "frozen draw" | PGD on one classifier drawn from the model |
    | "noise off" | PGD on the model with its noise switched off, which is the student reverted |
    | "parent" | PGD on the model to transfer from |

    Every candidate is scored on fresh draws: one half chooses the best for an image, the other half is what the report
    counts, so that no image is credited with luck. An image stands as long as one of the choosing draws is right.
    A predictor that averages draws itself (`Averaged`, `Voting`) is attacked through them, with so many fewer of its
    answers a gradient. One that names surrogates (a `Mixture`) is also attacked through each of them in every stage, by
    APGD on the margin with the stage's budget; one that names a margin bound is held against it on every image made.

    Args:
        budgets: the stages in order.
        version: the name that the figures go by.
    """

    budgets: tuple[Budget, ...]
    version: str = "strongest"

    def __post_init__(self) -> None:
        check_all("budgets", self.budgets, Budget, "stages, each an evaluation.Budget")
        check_text("version", self.version)
        if not self.budgets or not {"pgd", "apgd", "apgd-margin"} & set(self.budgets[0].attacks):
            raise ValueError("budgets must begin with a stage that attacks the model itself: pgd, apgd or apgd-margin")

    def described(self, against: Against) -> str:
        """The settings as a reader needs them to run it again."""
        unit = "draws" if against.stochastic else "restarts"
        shown = [f"{', '.join(against.attacks(b))}: {b.steps} steps × {b.tries} {unit}" for b in self.budgets]
        return f"{self.version}({'; then on the images that stand '.join(shown)})"

    def run(self, trial: Trial, eps: float | Tensor, against: Against, seed: object) -> Tally:
        """All stages on one batch."""
        x = trial.batch.x
        best, bounds, found, tally = None, None, x.clone(), Tally()
        for number, budget in enumerate(self.budgets):
            left = torch.arange(len(x)) if best is None else standing(best)
            candidates: dict[str, CandidateTally] = {}
            search = _Search(trial, left, eps, budget, against)
            for name in against.attacks(budget) if len(left) else ():
                seed_all(seed, number, name)
                try:
                    made, score, bound, cost = search.tried(name)
                except _CannotFreezeError as error:
                    tally.notes.append(f"{self.version} ran without its attack on a frozen draw: {error}")
                    continue
                if bound is not None:
                    bounds = bound if bounds is None else better(bounds, left, bound)[0]
                if best is None:
                    best, won = score, torch.ones(len(left), dtype=torch.bool)
                else:
                    best, won = better(best, left, score)
                found[left[won].to(x.device)] = made[won.to(x.device)]
                candidates[name] = CandidateTally([score], int(won.sum()), cost.gradients, cost.queries, cost.seconds)
                tally.gradients += cost.gradients
                tally.queries += cost.queries
                tally.seconds += cost.seconds
            assert best is not None, "the first stage attacks the model itself"
            seen = torch.zeros(len(x), dtype=torch.bool).index_fill(0, left, True)
            tally.stages.append(StageTally(budget.steps, budget.tries, [seen], [best], candidates))
        assert best is not None
        tally.bounds = [] if bounds is None else [bounds]
        return trial.measured(tally, found, eps, best)


@dataclass(frozen=True)
class Against:
    """What there is to attack."""

    stochastic: bool
    parent: nn.Module | None = None
    margin: bool = True
    """Whether the task has one."""
    layers: bool = True
    """Whether there is noise that can be switched off."""
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict)
    """Other models to be attacked through; see `Predictor`."""
    bound: nn.Module | None = None
    """A model whose robust accuracy is a lower bound; see `Predictor.margin_bound`."""

    def attacks(self, budget: Budget) -> list[str]:
        """Those of the budget that can run, then those through surrogates."""
        left_out = {
            "frozen draw": not self.stochastic,
            "noise off": not (self.stochastic and self.layers),
            "parent": self.parent is None,
        }
        names = ["apgd" if n == "apgd-margin" and not self.margin else n for n in budget.attacks]
        return [*(name for name in dict.fromkeys(names) if not left_out.get(name)), *self.surrogates]


class _CannotFreezeError(ValueError):
    """The model answers differently from batch to batch even with its noise fixed."""


@dataclass(frozen=True)
class _Search:
    """One stage on the rows of a batch that stand."""

    trial: Trial
    rows: Tensor
    eps: float | Tensor
    budget: Budget
    against: Against

    def tried(self, name: str) -> tuple[Tensor, Score, Score | None, Tally]:
        """What one attack makes of the rows, how that and the margin bound do on fresh draws, and the cost of all."""
        trial, rows = self.trial, self.rows.to(self.trial.batch.x.device)
        batch = trial.batch.at(rows)
        clean = None if trial.clean is None else trial.clean[rows]
        aside: list[Counted] = []

        def work() -> tuple[Tensor, Score, Score | None]:
            with self._attacked(name, batch, aside) as (subject, attack):
                made = subject.attack(attack, batch)
            score, bound = trial.subject.score(batch, trial.draws, made, clean=clean), None
            if self.against.bound is not None:
                aside.append(Counted(self.against.bound))
                bound = trial.subject.of(aside[-1]).score(batch, trial.draws, made, clean=clean)
            return made, score, bound

        (made, score, bound), cost = trial.timed(work)
        cost.gradients += sum(model.gradients for model in aside)
        cost.queries += sum(model.queries for model in aside)
        return made, score, bound, cost

    @contextmanager
    def _attacked(self, name: str, batch: Batch, aside: list[Counted]) -> Iterator[tuple[Subject, BallAttack]]:
        """What is attacked, and how; models other than the evaluated one go to `aside`, to be counted."""
        subject, steps, tries = self.trial.subject, self.budget.steps, self.budget.tries
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.trial.norm}
        if name in ("pgd", "apgd", "apgd-margin"):
            ball |= self._tries(subject, self.against.stochastic)
            if name == "apgd-margin":
                yield subject, APGD(steps=steps, loss=margin, **ball)
            else:
                yield subject, (PGD if name == "pgd" else APGD)(steps=steps, **ball)
            return
        if name in self.against.surrogates:
            aside.append(Counted(self.against.surrogates[name]))
            other = subject.of(aside[0])
            if self.against.margin:
                ball["loss"] = margin
            yield other, APGD(steps=steps, **ball, **self._tries(other, other.is_stochastic(batch.first(16))))
            return
        pgd = PGD(steps=steps, restarts=max(1, tries // 2), **ball)
        parent = self.against.parent
        alone = parent if name == "parent" and parent is not None else one_draw(uncounted(self.trial.model))
        aside.append(Counted(alone))
        if name == "frozen draw":
            seed = int(torch.randint(2**31, ()))
            with ExitStack() as stack:
                try:
                    fixed = stack.enter_context(frozen(aside[0], seed, batch.x, subject.task, batch.others))
                except ValueError as error:
                    raise _CannotFreezeError(str(error)) from error
                yield subject.of(fixed), pgd
        elif name == "noise off":
            with deterministic(aside[0]):
                yield subject.of(aside[0]), pgd
        else:
            yield subject.of(aside[0]), pgd

    def _tries(self, subject: Subject, stochastic: bool) -> dict[str, Any]:
        """Draws of a gradient, fewer of a predictor that averages some itself; of a model without noise restarts."""
        tries = self.budget.tries
        return {"eot": max(1, tries // samples_of(subject.model))} if stochastic else {"restarts": tries}


NAMED = {
    "strongest-1": Strongest(
        (
            Budget(10, 4, ("apgd-margin", "noise off", "parent")),
            Budget(40, 5),
            Budget(40, 20, ("apgd-margin",)),
        ),
        "strongest-1",
    )
}
"""By version; what a version does never changes."""
NAMED["strongest"] = NAMED["strongest-1"]
