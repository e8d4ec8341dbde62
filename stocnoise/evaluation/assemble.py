"""From the results of batches to a report."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stocnoise.evaluation.cascade import Cascade
from stocnoise.evaluation.examples import Example, Shown, examples
from stocnoise.evaluation.inputs import fingerprint
from stocnoise.evaluation.jobs import AnyJob
from stocnoise.evaluation.measured import WORST, Clean, Entry
from stocnoise.evaluation.queries import QueryJob, Tried, settled
from stocnoise.evaluation.rates import (
    Successes,
    accuracy,
    any_successes,
    averaged_successes,
    best_of,
    pick,
    successes,
    vote_successes,
    whole_successes,
    worst_case,
)
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.stages import converged, figures
from stocnoise.evaluation.trials import Key, Tally
from stocnoise.version import __version__


@dataclass
class BatchResult:
    """Every attack on one batch: kept or lost as a whole, so that all attacks are judged on the same images."""

    clean: Score
    tallies: dict[Key | Tried, Tally]
    sums: Tensor
    shown: Shown | None = None
    """Rows to look at, without an attack."""
    rows: list[int] = field(default_factory=list)
    """Their numbers within the batch."""
    targets: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Attacks that gave up on this batch, to the reason."""


def merged(batches: Sequence[BatchResult]) -> tuple[Score, dict[Key, Tally]]:
    """All batches as one, each attack that may only ask with the answers to a question that serve it best."""
    clean = Score.cat([batch.clean for batch in batches])
    tallies: dict[Key | Tried, Tally] = {}
    for batch in batches:
        for key, tally in batch.tallies.items():
            tallies.setdefault(key, Tally()).add(tally)
    # An attack that gave up on a batch has no figure for all images.
    return clean, settled({key: tally for key, tally in tallies.items() if len(tally.scores) == len(batches)})


def kept_examples(batches: Sequence[BatchResult], tallies: Mapping[Key, Tally], count: int) -> list[Example]:
    """The first `count` rows that were put aside, under every attack, then under the best for each of them."""
    numbers: list[int] = []
    before = 0
    for batch in batches:
        numbers += [before + row for row in batch.rows]
        before += len(batch.clean.averaged)
    aside = [batch for batch in batches if batch.shown is not None]
    if not aside:
        return []
    targets = [target for batch in aside for target in batch.targets]
    attacked = {key: _joined(tally.shown) for key, tally in tallies.items()}
    scores = {key: Score.cat(tally.scores) for key, tally in tallies.items()}
    for e in dict.fromkeys(key[1] for key in tallies if key[1] is not None):
        if rivals := _rivals(tallies, e):
            chosen = best_of([scores[key] for key in rivals])[numbers].tolist()
            each = [attacked[rivals[which]].at(row) for row, which in enumerate(chosen)]
            attacked[WORST, e] = _joined(each)
    return list(examples(numbers, targets, _joined([b.shown for b in aside if b.shown is not None]), attacked, count))


def _joined(parts: Sequence[Shown]) -> Shown:
    return Shown(torch.cat([part.x for part in parts]), [answer for part in parts for answer in part.answers])


def clean_figures(clean: Score) -> Clean:
    passes = clean.correct.double().mean(0)
    spread = passes.std().item() if len(passes) > 1 else 0.0
    more = {} if clean.parts is None else {"row_accuracy": clean.parts.whole.double().mean().item()}
    return Clean(
        accuracy(clean),
        spread,
        clean.vote.double().mean().item(),
        clean.averaged.double().mean().item(),
        clean,
        more | _mean_iou(clean),
    )


def _mean_iou(score: Score) -> dict[str, float]:
    """Mean over the classes that occur of Σ intersection / Σ union."""
    if score.overlaps is None:
        return {}
    intersection, union = score.overlaps.sum(0).unbind(1)
    return {"miou": (intersection / union)[union > 0].mean().item()}


def _more(clean: Score, attacked: Score) -> dict[str, float]:
    more = _mean_iou(attacked)
    if (whole := whole_successes(clean, attacked)) is not None:
        more["row_asr"] = whole.rate.value
    if attacked.wanted is not None:
        more["targeted_asr"] = attacked.wanted.double().mean().item()
    return more


def entries(
    clean: Score, tallies: Mapping[Key, Tally], jobs: Sequence[AnyJob | QueryJob], eps: Iterable[float]
) -> list[Entry]:
    """One entry for each attack and ε, then the worst case of each ε, unless budgets of queries set them apart."""
    scores = {key: Score.cat(tally.scores) for key, tally in tallies.items()}
    found = [
        _entry(key, clean, scores[key], tallies[key], job.settings)
        for job in jobs
        for key in job.keys(eps)
        if key in scores
    ]
    for e in eps:
        if rivals := _rivals(scores, e):
            found.append(_worst(e, clean, [scores[key] for key in rivals], [tallies[key] for key in rivals]))
    return found


def _rivals(keys: Iterable[Key], eps: float) -> list[Key]:
    """The attacks at this ε whose best for each image is the worst case; none of one attack, or at counted queries."""
    known = list(keys)
    found = [key for key in known if key[1] == eps]
    return found if len(found) > 1 and all(len(key) == 2 for key in known) else []


def _entry(key: Key, clean: Score, attacked: Score, tally: Tally, settings: str) -> Entry:
    hit, score = successes(clean, attacked), attacked
    if tally.stages or tally.chosen:  # what is counted must not be what the best of several was chosen by
        hit, _, score = worst_case(clean, [attacked])
    entry = _filled(key, clean, attacked, [tally], settings, hit, score, torch.cat(tally.l2))
    if tally.bounds:
        bound = accuracy(Cascade(clean, [Score.cat(tally.bounds)]).worst).value
        entry.more["margin_bound"] = bound
    return entry


def _worst(eps: float, clean: Score, attacked: list[Score], tallies: list[Tally]) -> Entry:
    hit, chosen, unbiased = worst_case(clean, attacked)
    l2 = torch.stack([torch.cat(tally.l2) for tally in tallies]).gather(0, chosen[None]).squeeze(0)
    settings = f"for each image the best of {len(attacked)} attacks"
    return _filled((WORST, eps), clean, pick(attacked, chosen), tallies, settings, hit, unbiased, l2)


def _filled(
    key: Key,
    clean: Score,
    attacked: Score,
    tallies: list[Tally],
    settings: str,
    hit: Successes,
    score: Score,
    l2: Tensor,
) -> Entry:
    """An entry for images `attacked`; `hit` and `score` are what ASR and robust accuracy are counted by."""
    images = len(attacked.averaged)
    stages = tuple(figures(clean, tallies[0].stages)) if len(tallies) == 1 else ()
    return Entry(
        attack=key[0],
        eps=key[1],
        asr=hit.rate,
        robust_accuracy=accuracy(score),
        vote_asr=vote_successes(clean, attacked).rate.value,
        averaged_asr=averaged_successes(clean, attacked).rate.value,
        any_asr=any_successes(clean, attacked).rate.value,
        images=images,
        gradients=sum(tally.gradients for tally in tallies) / images,
        queries=sum(tally.queries for tally in tallies) / images,
        seconds=sum(tally.seconds for tally in tallies),
        median_l2=l2.median().item(),
        settings=settings,
        successes=hit,
        score=score,
        more=_more(clean, attacked),
        stages=stages,
        converged=converged(stages),
        budget=key[2] if len(key) == 3 else None,
        answers=tallies[0].answers if len(key) == 3 else None,
    )


def settings(batches: Sequence[BatchResult], device: torch.device, **given: Any) -> dict[str, Any]:
    """Everything a reader needs to run it again."""
    return {
        "images": sum(len(batch.clean.averaged) for batch in batches),
        "fingerprint": fingerprint(batch.sums for batch in batches),
        **given,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": {
            "stocnoise": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
