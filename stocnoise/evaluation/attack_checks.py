"""Signs of false robustness that attacks show by comparison (Athalye et al. 2018, Carlini et al. 2019)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from stocnoise.attacks import BIM, PGD, BallAttack, RandomNoise, Transfer
from stocnoise.attacks.ball import Bounds, Norm, largest, limits
from stocnoise.attacks.features import NoClassifierError
from stocnoise.attacks.frozen import frozen
from stocnoise.attacks.losses import margin
from stocnoise.batches import Batch
from stocnoise.controls import deterministic, stochastic_layers
from stocnoise.evaluation.binarisation import binarisation
from stocnoise.evaluation.inputs import uncounted
from stocnoise.evaluation.measured import WORST, Entry
from stocnoise.evaluation.rates import Successes, difference, successes, wilson
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.straight_through import misleading_layers, straight_through
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import seed_all
from stocnoise.predictors import surrogates

# A difference is reported if it exceeds this and its 95 % interval excludes zero.
_ORDER = 0.02
_CONVERGED = 0.05
_NOISE_ALONE = 0.1
_BREAKS = 0.95

# Images, and draws, of checks that look closely.
_FEW, _SOME = 8, 32

_BLACK_BOX = (
    *(f"{name}{raw}" for name in ("square", "boundary", "hopskipjump") for raw in ("", "-raw")),
    *("transfer", "random"),
)


@dataclass
class Trials:
    """Attacks on the same few images, each scored on fresh draws."""

    subject: Subject
    batches: list[Batch]
    draws: int
    seed: int
    tick: Callable[[str], None] = field(default=lambda label: None)

    def __call__(self, label: str, attack: BallAttack, model: nn.Module | None = None) -> Successes:
        """Successes of `attack` on `model`, scored on the same; default the evaluated model."""
        self.tick(label)
        subject = self.subject if model is None else self.subject.of(model)
        before, after = [], []
        for index, batch in enumerate(self.batches):
            seed_all(self.seed, "check", label, index)
            draws = self.draws if model is None else 1
            answers = subject.answers(batch, draws)
            before.append(subject.score(batch, draws))
            after.append(subject.score(batch, draws, subject.attack(attack, batch), clean=answers))
        return successes(Score.cat(before), Score.cat(after))

    @property
    def has_margin(self) -> bool:
        return self.subject.task.margin is not None


def attack_warnings(
    trials: Trials,
    *,
    eps: float | Tensor,
    norm: Norm,
    steps: int,
    eot: int,
    stochastic: bool,
    source: nn.Module | None,
    own: tuple[str, BallAttack] | None = None,
) -> Iterator[str]:
    """Warnings from a dozen attacks at one ε, best one where about half of the images fall.

    `own` is the best attack of the run, by name, if it has settings of its own.
    """
    subject = trials.subject
    pgd = PGD(eps=eps, norm=norm, steps=steps, eot=eot, bounds=subject.bounds)
    base = trials("pgd", pgd)
    if own is not None:
        yield from _outdone(trials, *own, pgd, base)
    yield from _converged(trials, pgd, base, stochastic)
    yield from _ordered(trials, pgd, base, source)
    yield from _led_astray(trials, pgd, base)
    yield from _breaks(trials, pgd)
    yield from _passed_through(trials, pgd, base)
    yield from _finds_what_is_there(trials, pgd)
    if stochastic:
        yield from _not_noise_alone(trials, pgd, base)


def _width(bounds: Bounds) -> float | None:
    """The distance between bounds that are one number each."""
    low, high = limits(bounds)
    one = all(not isinstance(limit, Tensor) and math.isfinite(limit) for limit in (low, high))
    return float(high - low) if one else None


def _exceeds(first: Successes, second: Successes, tolerance: float) -> float | None:
    """ASR of `first` minus that of `second` if it is more than `tolerance`, and more than chance."""
    value, error = difference(first, second)
    return value if value > tolerance and value - 1.96 * error > 0 else None


def _outdone(trials: Trials, name: str, attack: BallAttack, pgd: PGD, base: Successes) -> Iterator[str]:
    if (gap := _exceeds(base, trials(name, attack), _CONVERGED)) is not None:
        yield (
            f"{name}, the best attack of this run at ε = {largest(pgd.eps):.4g}, is too weak: PGD of {pgd.steps} steps "
            f"× {pgd.eot} draws succeeds {100 * gap:.0f} points more often. Give it more steps, or more draws"
        )


def _converged(trials: Trials, pgd: PGD, base: Successes, stochastic: bool) -> Iterator[str]:
    stronger = {
        "twice the steps": dataclasses.replace(pgd, steps=2 * pgd.steps),
        "two restarts": dataclasses.replace(pgd, restarts=2),
    }
    if trials.has_margin:
        stronger["the margin as loss"] = dataclasses.replace(pgd, loss=margin)
    if stochastic:
        stronger["twice the draws per gradient"] = dataclasses.replace(pgd, eot=2 * pgd.eot)
    for label, attack in stronger.items():
        if (gap := _exceeds(trials(label, attack), base, _CONVERGED)) is not None:
            yield (
                f"the attack has not converged: {label} raises the ASR of PGD at ε = {largest(pgd.eps):.4g} by "
                f"{100 * gap:.0f} points. Use a stronger attack"
            )


def _ordered(trials: Trials, pgd: PGD, base: Successes, source: nn.Module | None) -> Iterator[str]:
    one_step = trials("one step", BIM(eps=pgd.eps, norm=pgd.norm, steps=1, eot=pgd.eot, bounds=pgd.bounds))
    if (gap := _exceeds(one_step, base, _ORDER)) is not None:
        yield f"one step succeeds more often than {pgd.steps} of PGD, by {100 * gap:.0f} points: gradients mislead"
    random = trials("random noise", RandomNoise(eps=pgd.eps, norm=pgd.norm, bounds=pgd.bounds))
    if (gap := _exceeds(random, base, _ORDER)) is not None:
        yield f"random noise of norm ε succeeds more often than PGD, by {100 * gap:.0f} points: gradients mislead"
    elif random.rate.value > 0.05 and base.rate.low <= random.rate.value:
        yield (
            f"PGD at ε = {largest(pgd.eps):.4g} succeeds no more often than random noise of the same norm "
            f"({base.rate.value:.0%} and {random.rate.value:.0%}): its gradients carry nothing, or ε is too small"
        )
    if source is not None:
        transfer = trials(
            "transfer", Transfer(source=source, attack=pgd, eps=pgd.eps, norm=pgd.norm, bounds=pgd.bounds)
        )
        if (gap := _exceeds(transfer, base, _ORDER)) is not None:
            yield (
                f"images made on another model succeed more often than PGD on this one, by {100 * gap:.0f} points: its "
                "gradients are masked"
            )


def _led_astray(trials: Trials, pgd: PGD, base: Successes) -> Iterator[str]:
    """Models that a predictor names as ways through it must lead nowhere that its own gradient does not."""
    for name, other in surrogates(uncounted(trials.subject.model)).items():
        attack = dataclasses.replace(pgd, loss=margin) if trials.has_margin else pgd
        through = Transfer(source=other, attack=attack, eps=pgd.eps, norm=pgd.norm, bounds=pgd.bounds)
        if (gap := _exceeds(trials(name, through), base, _ORDER)) is not None:
            yield (
                f"PGD with the gradient of {name} succeeds {100 * gap:.0f} points more often than with the model's own "
                "gradient, which is masked: believe attacks='strongest', which goes both ways"
            )


def _breaks(trials: Trials, pgd: PGD) -> Iterator[str]:
    """With a ball that holds every image, nothing is left to be robust."""
    width = _width(pgd.bounds)
    if width is None or trials.subject.mask is not None:
        return
    x = trials.batches[0].x
    whole = width if pgd.norm == "inf" else width * float(x[0].numel()) ** 0.5
    attack = dataclasses.replace(pgd, eps=whole)
    found = [trials("unbounded", attack)]
    if trials.has_margin:
        found.append(trials("unbounded, margin", dataclasses.replace(attack, loss=margin)))
    best = max(found, key=lambda each: each.rate.value).rate
    if best.high < _BREAKS:
        yield (
            f"with ε = {whole:.3g}, which allows any image at all, PGD succeeds on {best.value:.0%} only: it should "
            "on all. The attack does not work on this model, and its other figures are too low"
        )


def _passed_through(trials: Trials, pgd: PGD, base: Successes) -> Iterator[str]:
    """Layers whose gradient is zero almost everywhere, or points elsewhere, must not be what stops an attack."""
    seed_all(trials.seed, "check", "layers")
    layers = misleading_layers(trials.subject, trials.batches[0].first(_FEW))
    if not layers:
        return
    with straight_through([module for _, module in layers]):
        through = trials("straight through", pgd)
    if (gap := _exceeds(through, base, _ORDER)) is not None:
        names = ", ".join(name.removeprefix("model.") or type(module).__name__ for name, module in layers)
        yield (
            f"with {names} passed backwards as the identity, PGD succeeds {100 * gap:.0f} points more often "
            f"({through.rate.value:.0%}, not {base.rate.value:.0%}): the gradient there does not tell how the layer "
            "changes, and the other figures are too low. Attack a model with a differentiable copy of it"
        )


def _finds_what_is_there(trials: Trials, pgd: PGD) -> Iterator[str]:
    """The binarisation test, for models that end in one vector for each input."""
    if trials.subject.task.link is None or trials.subject.task.overlaps is not None:  # an answer at every pixel
        return
    trials.tick("binarisation")
    seed_all(trials.seed, "check", "binarisation")
    some = trials.batches[0].first(_SOME)
    try:
        found = binarisation(trials.subject, some, pgd, min(trials.draws, _FEW))
    except NoClassifierError as error:
        yield f"the binarisation test could not run: {error}"
        return
    if found.random < 0.5 and wilson(found.attack, len(some.x)).high < _BREAKS:
        yield (
            f"binarisation test: where an adversarial input is known to exist, PGD finds one for {found.attack:.0%} of "
            f"the images only (random search for {found.random:.0%}): the attack does not fit this model. Use more "
            "steps, or more draws per gradient"
        )


def _not_noise_alone(trials: Trials, pgd: PGD, base: Successes) -> Iterator[str]:
    """An attacker who knows the draw, or a model without noise, must not be much easier prey."""
    plain = dataclasses.replace(pgd, eot=1)
    first, subject = trials.batches[0], trials.subject
    with frozen(subject.model, trials.seed, first.x, subject.task, first.others) as classifier:
        known = trials("frozen noise", plain, classifier)
    yield from _noise_alone(known, base, "with its noise frozen to one draw that the attacker knows")
    if any(True for _ in stochastic_layers(subject.model)):
        with deterministic(subject.model):
            off = trials("noise off", plain, subject.model)
        yield from _noise_alone(off, base, "with its noise switched off")


def _noise_alone(other: Successes, base: Successes, how: str) -> Iterator[str]:
    if (gap := _exceeds(other, base, _NOISE_ALONE)) is not None:
        yield (
            f"{how}, the model falls {100 * gap:.0f} points more often ({other.rate.value:.0%}, not "
            f"{base.rate.value:.0%}): that much of its robustness is randomness alone"
        )
    elif (gap := _exceeds(base, other, _NOISE_ALONE)) is not None and other.rate.value < 0.5:
        yield (
            f"{how}, the model resists PGD {100 * gap:.0f} points better than with fresh noise: its gradients are "
            "masked"
        )


def entry_warnings(entries: Sequence[Entry]) -> Iterator[str]:
    """Warnings from the report's own figures: ASR rises with ε, the last stage of an attack takes nothing more, and no
    black-box attack beats every white-box one.
    """
    by_attack: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.eps is not None:
            asked = "" if entry.budget is None else f" at {entry.budget} queries"
            by_attack.setdefault(f"{entry.attack}{asked}", []).append(entry)
    for attack, found in by_attack.items():
        found.sort(key=lambda entry: entry.eps or 0.0)
        for weaker, stronger in itertools.pairwise(found):
            if (gap := _exceeds(weaker.successes, stronger.successes, _ORDER)) is not None:
                yield (
                    f"{attack} succeeds {100 * gap:.0f} points less often at ε = {stronger.eps:.4g} than at "
                    f"{weaker.eps:.4g}: a larger ball cannot be safer"
                )
    for entry in entries:
        if entry.converged is False:
            yield (
                f"{entry.attack} at ε = {entry.eps:.4g} has not converged: its last stage still took "
                f"{100 * entry.stages[-1].taken:.1f} points of the robust accuracy, which is at most "
                f"{entry.robust_accuracy.value:.1%}"
            )
    white = [entry for entry in entries if entry.gradients > 0 and entry.attack in by_attack]
    for entry in entries:
        rivals = [other for other in white if other.eps == entry.eps and other.attack not in (*_BLACK_BOX, WORST)]
        if entry.attack not in _BLACK_BOX or entry.eps is None or not rivals:
            continue
        best = max(rivals, key=lambda other: other.asr.value)
        if (gap := _exceeds(entry.successes, best.successes, _ORDER)) is not None:
            yield (
                f"{entry.attack} at ε = {entry.eps:.4g} succeeds {100 * gap:.0f} points more often than the best "
                "attack with gradients: they are masked"
            )
