"""Which numbers to give a mixture: the most clean accuracy at a permitted loss of robust accuracy, by attacking it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stocnoise.attacks import APGD, BallAttack
from stocnoise.attacks.losses import margin
from stocnoise.attacks.modes import attack_mode
from stocnoise.batches import BatchReader, check_reader
from stocnoise.checks import check_model, check_seed, check_several, check_share, check_whole, optional
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.evaluation.inputs import batches
from stocnoise.evaluation.subject import Subject
from stocnoise.evaluation.trials import seed_all
from stocnoise.functional import as_one_process
from stocnoise.mixing.found import Candidate, Figures, MixtureFit
from stocnoise.mixing.rivals import Rival, Rivals
from stocnoise.mixture import Blend, Mixture
from stocnoise.normalization import warn_if_bare
from stocnoise.predictors import samples_of


def fit_mixture(
    mixture: nn.Module,
    data: Iterable[Any],
    attack: BallAttack | None = None,
    *,
    max_loss: float = 0.01,
    weights: Sequence[float] = (0.55, 0.6, 0.7, 0.8, 0.9),
    scales: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    draws: int = 8,
    batch: BatchReader = None,
    max_images: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MixtureFit:
    """Choose a, k and T of a mixture on held-out images, without training, and set `mixture.blend` to them.

    Of the candidates whose robust accuracy is at most `max_loss` below the student's own, the one of the largest clean
    accuracy is taken, if it exceeds the student's; of several the most robust one. What a robust model may cost is
    known beforehand, and the loss is a difference on the same images under the same attacks.

    A candidate is attacked itself: through its own gradient, and through that of k = T = 1, on the images that it
    still gets right. (A fit on images made on the halves alone takes what falls as soon as it is attacked itself.)
    Every image made, also those made on the halves, is held against every candidate, at the cost of one pass of the two
    halves: so each candidate's robust accuracy is bounded from above before its turn, and from the largest clean
    accuracy down only those are attacked whose bound allows them. What was not attacked could not have been chosen.

    Args:
        mixture: made by `mix`.
        data: batches (images in [0, 1], labels), gone through once and held in memory: some hundreds of images that
            trained neither half, and that no figure is reported of.
        attack: what is permitted, and how hard to search; default `APGD(eps=8/255, steps=20, eot=4)` on the margin. Of
            models without noise `eot` is 1.
        max_loss: robust accuracy that may be given up, in [0, 1]: 0.01 is one point.
        weights, scales, temperatures: values of a, k and T; every combination is a candidate. The student's useful k
            depends on the size of its logits.
        draws: passes over each image, of a model with noise; one half chooses the worst image, the other scores it.
        batch: entries of a batch by name or number, or a function; see `evaluate`.
        max_images: stop after so many.
        seed: of everything random.
        progress: show a bar.

    Returns:
        Every candidate with its clean and robust accuracy, and the chosen one; None, and an unchanged mixture, if none
        gains anything.

    Raises:
        TypeError: what should be a model or several numbers is not.
        ValueError: no mixture, a number out of its range, or data that does not fit.

    Example:
        >>> mixture, attack = stocnoise.mix(student, model), stocnoise.PGD(steps=2)
        >>> fit = stocnoise.fit_mixture(mixture, loader, attack, scales=[1.0], temperatures=[1.0], progress=False)
        >>> len(fit.candidates)
        5
    """
    from tqdm import tqdm

    check_model("mixture", mixture)
    found = unwrap_compiled(mixture)
    if not isinstance(found, Mixture):
        raise ValueError(f"mixture must be what stocnoise.mix makes, not a {type(found).__name__}")
    if attack is not None and not isinstance(attack, BallAttack):
        raise ValueError(f"attack must be one in a ball, such as stocnoise.APGD(eps=8/255), not {attack!r}")
    check_several("data", data, "batches")
    check_share("max_loss", max_loss)
    for name, values in (("weights", weights), ("scales", scales), ("temperatures", temperatures)):
        check_several(name, values, "numbers")
    check_whole("draws", draws)
    check_reader(batch)
    optional(check_whole, "max_images", max_images)
    check_seed("seed", seed)
    blends = [Blend(*numbers) for numbers in itertools.product(weights, scales, temperatures)]
    if not blends:
        raise ValueError("weights, scales and temperatures must hold a value each")
    task, device = found.task, next(found.parameters(), torch.empty(0)).device
    usual = APGD(eps=8 / 255, steps=20, eot=4)
    told = attack or (usual if task.margin is None else dataclasses.replace(usual, loss=margin))
    subject = Subject(found, task, told.bounds, told.mask)
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(cuda),
        as_one_process(),
        attack_mode(found),
        tqdm(disable=not progress, unit="attack", desc="fit_mixture") as bar,
    ):
        given = list(batches(data, max_images, device, batch, task))
        if not given:
            raise ValueError("the data gave no batch")
        few = given[0].first(16)
        for half in (found.student, found.teacher):
            warn_if_bare(half, few.x)
        for each in given:
            subject.check(each)
        seed_all(seed, "clean")
        if not subject.is_stochastic(few):
            draws, told = 1, dataclasses.replace(told, eot=1)
        rivals = Rivals(found, subject, given, blends, draws)
        search = _Search(rivals, told, seed, bar)
        search.attacked_by(found.student, "student", "student")
        search.attacked_by(found.teacher, "teacher", "teacher")
        best = search.best(max_loss)
    if best is not None:
        found.blend = best
    settings = {
        "images": sum(len(each.x) for each in given),
        "attack": str(told),
        "eps": float(told.eps.max() if isinstance(told.eps, torch.Tensor) else told.eps),
        "max_loss": max_loss,
        "draws": draws,
        "seed": seed,
    }
    return search.outcome(best, settings)


@dataclass
class _Search:
    """Attacks under way: which blends have been attacked themselves."""

    rivals: Rivals
    attack: BallAttack
    seed: int
    bar: Any
    attacked: set[Blend] = field(default_factory=set)

    def best(self, max_loss: float) -> Blend | None:
        """The blend of the largest clean accuracy among those that keep enough; what it rests on has been attacked."""
        rivals = self.rivals
        least = rivals.accuracy("student").value
        gaining = [r for r in rivals.all if isinstance(r, Blend) and rivals.accuracy(r).value > least]
        while True:
            floor = rivals.robust("student").value - max_loss
            left = [blend for blend in gaining if rivals.robust(blend).value >= floor - 1e-9]
            if not left:
                return None
            first = max(left, key=lambda blend: (rivals.accuracy(blend).value, rivals.robust(blend).value))
            if first in self.attacked:
                return first
            self._attack(first)

    def _attack(self, blend: Blend) -> None:
        """Through the mixture itself, then through its surrogates; its halves have been attacked already."""
        halves = self.rivals.mixture
        itself = Mixture(halves.student, halves.teacher, blend, halves.task)
        for name, model in {"itself": itself, **itself.surrogates()}.items():
            if model is not halves.student and model is not halves.teacher:
                self.attacked_by(model, f"{blend} {name}", blend)
        self.attacked.add(blend)

    def attacked_by(self, model: nn.Module, name: str, against: Rival) -> None:
        """Images made on `model` of those that `against` gets right, held against every rival."""
        rivals = self.rivals
        for number, rows in enumerate(rivals.standing(against)):
            if len(rows):
                seed_all(self.seed, number, name)
                batch = rivals.batches[number]
                part, other = batch.at(rows.to(batch.x.device)), rivals.subject.of(model)
                draws = max(1, self.attack.eot // samples_of(model)) if other.is_stochastic(part.first(16)) else 1
                rivals.add(number, rows, other.attack(dataclasses.replace(self.attack, eot=draws), part))
        self.bar.set_postfix_str(name)
        self.bar.update()

    def outcome(self, best: Blend | None, settings: dict[str, Any]) -> MixtureFit:
        rivals = self.rivals

        def figures(rival: Rival) -> dict[str, Any]:
            return {"clean": rivals.accuracy(rival), "robust": rivals.robust(rival)}

        candidates = [
            Candidate(**figures(blend), blend=blend, attacked=blend in self.attacked)
            for blend in rivals.all
            if isinstance(blend, Blend)
        ]
        candidates.sort(key=lambda each: (each.clean.value, each.robust.value), reverse=True)
        chosen = next((each for each in candidates if each.blend == best), None)
        return MixtureFit(candidates, chosen, Figures(**figures("student")), Figures(**figures("teacher")), settings)
