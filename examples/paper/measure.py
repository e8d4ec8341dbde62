"""What is measured on a trained network: as in the paper, and as an expert would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

import stocnoise
from examples.paper.images import Batch, Split, batches
from examples.paper.scale import Budget, Scale
from stocnoise.attacks.losses import margin
from stocnoise.evaluation import Averaged
from stocnoise.evaluation.measured import WORST
from stocnoise.evaluation.stages import Candidate, Stage
from stocnoise.evaluation.strongest import Name

BATCH = 250
# On a student now one of them took more, now the other.
HARDER: tuple[Name, ...] = ("pgd", "apgd-margin")


@dataclass(frozen=True)
class Subject:
    """A network to measure, and what it is measured with."""

    scale: Scale
    split: Split
    model: nn.Module
    teacher: nn.Module
    seed: int

    @property
    def stochastic(self) -> bool:
        return any(stocnoise.stochastic_layers(self.model))

    def images(self, count: int) -> list[Batch]:
        return batches(self.split.test, count, BATCH)

    def evaluate(self, model: nn.Module, data: list[Batch], attacks: list[Any], eps: Any, **more: Any) -> Any:
        attack = self.scale.attacks
        settings = {"steps": attack.steps, "eot": 1, "draws": attack.draws, "checks": False, "progress": False}
        return stocnoise.evaluate(model, data, attacks, eps, seed=self.seed, **(settings | more))


def plain(subject: Subject) -> dict[str, Any]:
    """As in the paper: BIM, MIM and CW with one draw a gradient, and BIM and MIM made on the teacher."""
    attack = subject.scale.attacks
    transfers = [
        stocnoise.Transfer(source=subject.teacher, attack=make(steps=attack.steps))
        for make in (stocnoise.BIM, stocnoise.MIM)
    ]
    images = subject.images(attack.images)
    report = subject.evaluate(subject.model, images, ["bim", "mim", *transfers], attack.eps)
    cw = subject.evaluate(subject.model, images, ["cw"], attack.l2, norm="l2")
    names = {"transfer": "transfer-bim", "transfer #2": "transfer-mim"}
    return _figures([report, cw], names) | {"clean": report.clean.to_dict()}


def expectation(subject: Subject) -> dict[str, Any]:
    """The same white-box attacks with EOT, and the strongest: of these, PGD on the margin and APGD, the worst case."""
    attack = subject.scale.attacks
    images = subject.images(attack.images)
    names = ["bim", "mim", "pgd-margin", "apgd"]
    report = subject.evaluate(subject.model, images, names, attack.eps, eot=attack.eot)
    cw = subject.evaluate(subject.model, images, ["cw"], attack.l2, norm="l2", eot=attack.eot)
    return _figures([report, cw])


def strongest(subject: Subject) -> dict[str, Any]:
    """At the ε of training, image by image: EOT, restarts, two losses, a frozen draw, noise off; equal gradients.

    A model without noise is attacked with as many restarts as a stochastic one with draws.
    """
    return _strongest(subject, subject.model, subject.scale.attacks.strongest)


def averaged(subject: Subject) -> dict[str, Any]:
    """The same for the averaged predictor, whose own loss is attacked: each gradient is of a mean over its draws.

    With half as many steps, since a gradient takes at least as many passes as the predictor has draws. What is made on
    one draw, with more steps, is held against it as well: see `question`.
    """
    return _averaged(subject, subject.scale.attacks.strongest)


def harder(subject: Subject) -> dict[str, Any]:
    """As `strongest`, with the later stages of `Attacks.harder`, of two attacks each."""
    return _strongest(subject, subject.model, _harder(subject), HARDER)


def harder_averaged(subject: Subject) -> dict[str, Any]:
    """As `averaged`, with those stages."""
    return _averaged(subject, _harder(subject), then=HARDER)


def noise_off(subject: Subject) -> dict[str, Any]:
    """The same for the student with its noise switched off at test time."""
    with stocnoise.deterministic(subject.model):
        return _strongest(subject, subject.model, subject.scale.attacks.strongest)


def mixed(subject: Subject) -> dict[str, Any]:
    """The same for the model mixed with its teacher, the mixture's numbers chosen on held-out images."""
    mixture = stocnoise.mix(subject.model, subject.teacher)
    first = subject.scale.attacks.strongest[0]
    attack = stocnoise.APGD(eps=subject.scale.training.eps, steps=first.steps, eot=first.tries, loss=margin)
    held_out = batches(subject.split.holdout, None, BATCH)
    fit = stocnoise.fit_mixture(mixture, held_out, attack, seed=subject.seed, progress=False)
    return _strongest(subject, mixture, subject.scale.attacks.strongest) | {"fit": _rounded(fit.to_dict())}


_FIRST: dict[Name, str] = {
    "pgd": "PGD",
    "apgd": "APGD",
    "apgd-margin": "APGD, margin",
    "frozen draw": "PGD on one frozen draw",
    "noise off": "PGD with the noise off",
}


def _strongest(
    subject: Subject,
    model: nn.Module,
    budgets: Sequence[Budget],
    then: tuple[Name, ...] = ("apgd-margin",),
    **more: Any,
) -> dict[str, Any]:
    """Five attacks with the first budget, then those of `then` with each further one on the images that are left."""
    first, *later = budgets
    attack = stocnoise.evaluation.Strongest(
        (
            stocnoise.evaluation.Budget(first.steps, first.tries, tuple(_FIRST)),
            *(stocnoise.evaluation.Budget(each.steps, each.tries, then) for each in later),
        )
    )
    images = subject.images(subject.scale.attacks.question_images)
    report = subject.evaluate(model, images, [attack], subject.scale.training.eps, eot=first.tries, **more)
    (entry,) = report.entries
    found = _figures([report], {entry.attack: WORST})
    (worst,) = found["attacks"]
    tried = [
        worst
        | _rates(each)
        | {"attack": _FIRST.get(cast(Name, each.attack), each.attack), "gradients_per_image": _rounded(each.gradients)}
        for each in entry.stages[0].candidates
    ]
    stages = [
        _rates(stage) | {"images": stage.images, "steps": stage.steps, "tries": stage.tries} for stage in entry.stages
    ]
    return found | {
        "attacks": [*tried, worst],
        "clean": report.clean.to_dict(),
        "stages": stages,
        "per_image": {"clean": _answers(report.clean.score), "attacked": _answers(entry.score)},
    }


def _averaged(subject: Subject, budgets: Sequence[Budget], **more: Any) -> dict[str, Any]:
    predictor = Averaged(subject.model, subject.scale.attacks.averaged_samples).eval()
    return _strongest(subject, predictor, [Budget(each.steps // 2, each.tries) for each in budgets], draws=4, **more)


def _harder(subject: Subject) -> tuple[Budget, ...]:
    attack = subject.scale.attacks
    return attack.strongest[0], *attack.harder


def _rates(figures: Stage | Candidate) -> dict[str, Any]:
    asr, robust = figures.asr, figures.robust_accuracy
    return _rounded(
        {
            "asr": asr.value,
            "asr_interval": [asr.low, asr.high],
            "robust_accuracy": robust.value,
            "robust_accuracy_interval": [robust.low, robust.high],
        }
    )


def boundary(subject: Subject) -> dict[str, Any]:
    """Boundary Attack, raw as in the paper and, for a stochastic model, on frozen noise, scored on fresh draws."""
    attack = subject.scale.attacks
    wanted = [stocnoise.Boundary(steps=attack.boundary_steps, noise="raw")]
    if subject.stochastic:
        wanted.append(stocnoise.Boundary(steps=attack.boundary_steps))
    report = subject.evaluate(subject.model, subject.images(attack.boundary_images), wanted, attack.l2, norm="l2")
    return _figures([report])


def autoattack(subject: Subject) -> dict[str, Any]:
    """AutoAttack at the ε of training: `rand` where there is noise, else `standard`."""
    data = subject.images(subject.scale.attacks.autoattack_images)
    attack = stocnoise.AutoAttack(version="rand" if subject.stochastic else "standard")
    return _figures([subject.evaluate(subject.model, data, [attack], subject.scale.training.eps)])


def ablation(subject: Subject) -> dict[str, Any]:
    """PGD at the ε of training with one draw, and with EOT; APGD with EOT."""
    attack = subject.scale.attacks
    wanted = [
        stocnoise.PGD(steps=attack.steps),
        stocnoise.PGD(steps=attack.steps, eot=attack.eot),
        stocnoise.APGD(steps=attack.steps, eot=attack.eot),
    ]
    report = subject.evaluate(
        subject.model, subject.images(attack.images), wanted, subject.scale.training.eps, eot=attack.eot
    )
    return _figures([report], {"pgd": "PGD", "pgd #2": "PGD, EOT", "apgd": "APGD, EOT"}) | {
        "clean": report.clean.to_dict()
    }


def held_out(subject: Subject) -> dict[str, Any]:
    """On the images that settings are chosen by: PGD at the ε of training, with EOT where there is noise."""
    data = batches(subject.split.holdout, None, BATCH)
    attack = stocnoise.PGD(
        steps=subject.scale.attacks.steps, eot=subject.scale.attacks.eot if subject.stochastic else 1
    )
    report = subject.evaluate(subject.model, data, [attack], subject.scale.training.eps, eot=attack.eot)
    return _figures([report]) | {"clean": report.clean.to_dict()}


MEASUREMENTS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "plain": plain,
    "expectation": expectation,
    "strongest": strongest,
    "averaged": averaged,
    "harder": harder,
    "harder-averaged": harder_averaged,
    "noise-off": noise_off,
    "mixed": mixed,
    "boundary": boundary,
    "autoattack": autoattack,
    "ablation": ablation,
    "held-out": held_out,
}


def _figures(reports: list[stocnoise.Report], labels: dict[str, str] | None = None) -> dict[str, Any]:
    """The entries of reports under the names that the tables use, and what they rest on."""
    kept = ("eps", "asr", "asr_interval", "robust_accuracy", "robust_accuracy_interval", "gradients_per_image")
    attacks = []
    for report in reports:
        for entry in report.entries:
            data = entry.to_dict()
            name = (labels or {}).get(entry.attack, entry.attack)
            figures = {key: _rounded(data[key]) for key in kept}
            attacks.append({"attack": name, "norm": report.settings["norm"], **figures, "settings": entry.settings})
    warnings = [warning for report in reports for warning in report.warnings]
    shown = ("images", "fingerprint", "eot", "draws", "seed", "stochastic", "device", "versions")
    return {"attacks": attacks, "warnings": warnings, "settings": {key: reports[0].settings[key] for key in shown}}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def _answers(score: Any) -> dict[str, Any]:
    """By image: how many of the draws are right, and whether the mean softmax is."""
    return {
        "draws": score.correct.shape[1],
        "right": score.correct.sum(1).tolist(),
        "averaged": score.averaged.int().tolist(),
    }
