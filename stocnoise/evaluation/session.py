"""One evaluation under way: its settings, and what has been found so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack, BallAttack
from stocnoise.attacks.ball import Norm
from stocnoise.attacks.decision import InconsistentAnswersError
from stocnoise.batches import Batch
from stocnoise.evaluation import assemble
from stocnoise.evaluation.attack_checks import Trials, attack_warnings, entry_warnings
from stocnoise.evaluation.examples import shown, target_name
from stocnoise.evaluation.held_draws import held_draw_warnings
from stocnoise.evaluation.inputs import Counted, image_sums
from stocnoise.evaluation.jobs import AnyJob, Job, Wish, named_jobs
from stocnoise.evaluation.kept import KeptBatches, digest
from stocnoise.evaluation.measured import WORST, Entry
from stocnoise.evaluation.model_checks import model_warnings
from stocnoise.evaluation.queries import QueryJob, query_jobs
from stocnoise.evaluation.report import Report
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import Budgets, Trial, seed_all

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass
class Session:
    """The state of one evaluation: settings, and what has been found so far."""

    model: Counted
    subject: Subject
    source: nn.Module | None
    wanted: list[Wish]
    eps: Budgets
    norm: Norm
    steps: int
    eot: int
    draws: int
    seed: int
    keep_examples: int
    name: str
    queries: tuple[int, ...] = ()
    """Budgets of attackers who may only ask; none: attacks as they are."""
    stochastic: bool = True
    jobs: list[AnyJob | QueryJob] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    results: dict[int, assemble.BatchResult] = field(default_factory=dict)
    kept: list[Batch] = field(default_factory=list)
    done: KeptBatches | None = None

    @property
    def device(self) -> torch.device:
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def images(self) -> int:
        return sum(len(result.clean.averaged) for result in self.results.values())

    def jobs_for(self, stochastic: bool) -> list[AnyJob | QueryJob]:
        asked: dict[str, Any] = {
            "norm": self.norm,
            "steps": self.steps,
            "eot": self.eot if stochastic else 1,
            "source": self.source,
            "stochastic": stochastic,
        }
        found: Sequence[AnyJob | QueryJob]
        found = query_jobs(self.wanted, self.queries, **asked) if self.queries else named_jobs(self.wanted, **asked)
        smallest = next(iter(self.eps.values()))
        return [job.told(self.subject, smallest) for job in found]

    def begin(self, batch: Batch) -> None:
        """Learn from the first images whether the model is stochastic, and settle on the budgets."""
        few = batch.first(16)
        self.subject.check(few)
        self.stochastic = self.subject.is_stochastic(few)
        if not self.stochastic:
            self.eot = self.draws = 1
        elif self.subject.shares_noise(few):
            self.model.one_draw_a_pass = True
        self.jobs = self.jobs_for(self.stochastic)

    def total(self, data: Iterable[Any], batch_size: int, max_images: int | None, world: int) -> int | None:
        """Steps of the progress bar, if the data says how many batches there are."""
        if not isinstance(data, Sized):
            return None
        count = len(data) if max_images is None else min(len(data), -(-max_images // batch_size))
        return -(-count // world) * len(self.jobs)

    def keep(self, batch: Batch, count: int) -> None:
        """Put the first images aside for the checks."""
        missing = count - sum(len(kept.x) for kept in self.kept)
        if missing > 0:
            self.kept.append(batch.first(missing))

    def batch(self, index: int, batch: Batch, bar: tqdm[Any]) -> None:
        sums = image_sums(batch.x, batch.y)
        if self.done is not None and (kept := self.done.load(index, sums)) is not None:
            self.results[index] = kept
            for label, reason in kept.left_out.items():
                self.leave_out(label, reason)
            bar.update(len(self.jobs))
            return
        seed_all(self.seed, index, "clean")
        clean = self.subject.score(batch, self.draws)
        result = assemble.BatchResult(clean, {}, sums)
        answers = self.subject.answers(batch, self.draws)
        aside = self.to_show(clean)
        if len(aside):
            result.shown = shown(self.subject, batch, aside, self.draws)
            result.rows, result.targets = aside.tolist(), [target_name(batch.y[row]) for row in aside.tolist()]
        trial = Trial(self.subject, self.model, batch, answers, self.norm, self.draws, aside)
        for job in list(self.jobs):
            bar.set_postfix_str(job.label)
            try:
                for key, tally in job.run(trial, self.eps, f"{self.seed}/{index}").items():
                    result.tallies[key] = tally
            except InconsistentAnswersError as error:
                result.left_out[job.label] = str(error)
                self.leave_out(job.label, str(error))
            bar.update()
        self.results[index] = result
        if self.done is not None:
            self.done.save(index, result)

    def leave_out(self, label: str, reason: str) -> None:
        """An attack that gave up on one batch is not tried on others."""
        self.jobs = [job for job in self.jobs if job.label != label]
        self.warnings.append(f"{label} was left out: {reason}")

    def asked(self) -> dict[str, Any]:
        """All that the figures of a batch depend on, as plain data."""
        return {
            "model": digest(self.subject.model),
            "transfer_from": digest(self.source),
            "attacks": [[job.label, job.settings] for job in self.jobs],
            "eps": [[size, str(budget)] for size, budget in self.eps.items()],
            "norm": self.norm,
            "draws": self.draws,
            "seed": self.seed,
            "keep_examples": self.keep_examples,
            "subject": self.subject.settings(),
        }

    def to_show(self, clean: Score) -> Tensor:
        """The rows of a batch to keep as examples, as long as some are missing."""
        missing = self.keep_examples - sum(len(result.rows) for result in self.results.values())
        return (clean.p > 0.5).nonzero().flatten()[: max(0, missing)]

    def check(self, bar: tqdm[Any]) -> None:
        """Look for signs of false robustness on the images put aside."""
        seed_all(self.seed, "checks")
        found = list(model_warnings(self.subject, self.kept[0].first(64), self.eot, self.stochastic))

        def show(label: str) -> None:
            bar.set_postfix_str(f"checking: {label}")

        trials = Trials(self.subject, self.kept, self.draws, self.seed, tick=show)
        entries = self._with_gradients()
        eps = self._telling_eps(entries)
        own = self._own_attacks(entries, eps)
        if self.stochastic:
            seed_all(self.seed, "check", "held draws")
            found += held_draw_warnings(self.subject, own, self.kept[0].first(8))
        found += attack_warnings(
            trials,
            eps=self.eps[eps],
            norm=self.norm,
            steps=self.steps,
            eot=self.eot,
            stochastic=self.stochastic,
            source=self.source,
            own=self._best_of_all(entries, own, eps),
        )
        self.warnings += found

    def _with_gradients(self) -> list[Entry]:
        ordered = [self.results[index] for index in sorted(self.results)]
        clean, tallies = assemble.merged(ordered)
        found = assemble.entries(clean, tallies, self.jobs, self.eps)
        return [entry for entry in found if entry.eps is not None and entry.gradients > 0]

    def _telling_eps(self, found: Sequence[Entry]) -> float:
        """The ε at which about half of the images fall: there a difference shows best."""
        if not found:
            return list(self.eps)[len(self.eps) // 2]
        nearest = min(found, key=lambda entry: abs(entry.asr.value - 0.5) if entry.asr.value == entry.asr.value else 1)
        return nearest.eps or next(iter(self.eps))

    def _own_attacks(self, found: Sequence[Entry], eps: float) -> dict[str, Attack]:
        """At that ε, by label, the attacks that came as objects, not by name, and take gradients."""
        able = {entry.attack for entry in found}.difference(each for each in self.wanted if isinstance(each, str))
        attacks = {job.label: job.attack for job in self.jobs if isinstance(job, Job) and job.label in able}
        return {label: _within(each, self.eps[eps]) for label, each in attacks.items()}

    def _best_of_all(self, found: Sequence[Entry], own: dict[str, Attack], eps: float) -> tuple[str, BallAttack] | None:
        """The best attack with gradients, if it is one of the caller's own."""
        rivals = [entry for entry in found if entry.eps == eps and entry.attack != WORST]
        label = max(rivals, key=lambda entry: entry.asr.value).attack if rivals else ""
        attack = own.get(label)
        return (label, attack) if isinstance(attack, BallAttack) else None

    def gather(self, world: int) -> None:
        """Give every process the results and warnings of all."""
        everyone: list[Any] = [None] * world
        torch.distributed.all_gather_object(everyone, (self.results, self.warnings, self.stochastic, self.eot))
        self.results = {index: result for results, *_ in everyone for index, result in results.items()}
        self.warnings = list(dict.fromkeys(warning for _, warnings, *_ in everyone for warning in warnings))

    def report(self) -> Report:
        ordered = [self.results[index] for index in sorted(self.results)]
        clean, tallies = assemble.merged(ordered)
        entries = assemble.entries(clean, tallies, self.jobs, self.eps)
        warnings = self.warnings + [
            f"{key[0]} left the ball or [0, 1] by {tally.excess:.2g} at ε = {key[1]}: its figures do not count"
            for key, tally in tallies.items()
            if tally.excess > 1e-4
        ]
        warnings += dict.fromkeys(note for tally in tallies.values() for note in tally.notes)
        return Report(
            self.name,
            assemble.clean_figures(clean),
            entries,
            warnings + list(entry_warnings(entries)),
            assemble.settings(
                ordered,
                self.device,
                norm=self.norm,
                eps=list(self.eps),
                steps=self.steps,
                eot=self.eot,
                draws=self.draws,
                seed=self.seed,
                stochastic=self.stochastic,
                **({"queries": list(self.queries)} if self.queries else {}),
                **self.subject.settings(),
            ),
            assemble.kept_examples(ordered, tallies, self.keep_examples),
        )


def _within(attack: Attack, eps: float | Tensor) -> Attack:
    return replace(attack, eps=eps) if isinstance(attack, BallAttack) else attack
