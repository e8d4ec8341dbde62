"""From the results of batches to a report."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from stocnoise.evaluation.inputs import fingerprint
from stocnoise.evaluation.measured import WORST, Clean, Entry
from stocnoise.evaluation.rates import (
    accuracy,
    any_successes,
    averaged_successes,
    pick,
    successes,
    vote_successes,
    whole_successes,
    worst_case,
)
from stocnoise.evaluation.scoring import Score
from stocnoise.evaluation.trials import Job, Key, Tally


@dataclass
class BatchResult:
    """Every attack on one batch: kept or lost as a whole, so that all attacks are judged on the same images."""

    clean: Score
    tallies: dict[Key, Tally]
    sums: Tensor


def merged(batches: Sequence[BatchResult]) -> tuple[Score, dict[Key, Tally]]:
    """All batches as one."""
    clean = Score.cat([batch.clean for batch in batches])
    tallies: dict[Key, Tally] = {}
    for batch in batches:
        for key, tally in batch.tallies.items():
            tallies.setdefault(key, Tally()).add(tally)
    # An attack that gave up on a batch has no figure for all images.
    return clean, {key: tally for key, tally in tallies.items() if len(tally.scores) == len(batches)}


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


def entries(clean: Score, tallies: Mapping[Key, Tally], jobs: Sequence[Job], eps: Iterable[float]) -> list[Entry]:
    """One entry for each attack and ε, then the worst case of each ε."""
    scores = {key: Score.cat(tally.scores) for key, tally in tallies.items()}
    found = [
        _entry(key, clean, scores[key], tallies[key], str(job.attack))
        for job in jobs
        for key in job.keys(eps)
        if key in scores
    ]
    for e in eps:
        rivals = [key for key in scores if key[1] == e]
        if len(rivals) > 1:
            found.append(_worst(e, clean, [scores[key] for key in rivals], [tallies[key] for key in rivals]))
    return found


def _entry(key: Key, clean: Score, attacked: Score, tally: Tally, settings: str) -> Entry:
    images = len(attacked.averaged)
    hit = successes(clean, attacked)
    return Entry(
        attack=key[0],
        eps=key[1],
        asr=hit.rate,
        robust_accuracy=accuracy(attacked),
        vote_asr=vote_successes(clean, attacked).rate.value,
        averaged_asr=averaged_successes(clean, attacked).rate.value,
        any_asr=any_successes(clean, attacked).rate.value,
        images=images,
        gradients=tally.gradients / images,
        queries=tally.queries / images,
        seconds=tally.seconds,
        median_l2=torch.cat(tally.l2).median().item(),
        settings=settings,
        successes=hit,
        score=attacked,
        more=_more(clean, attacked),
    )


def _worst(eps: float, clean: Score, attacked: list[Score], tallies: list[Tally]) -> Entry:
    hit, chosen, unbiased = worst_case(clean, attacked)
    images = len(chosen)
    l2 = torch.stack([torch.cat(tally.l2) for tally in tallies]).gather(0, chosen[None]).squeeze(0)
    best = pick(attacked, chosen)
    return Entry(
        attack=WORST,
        eps=eps,
        asr=hit.rate,
        robust_accuracy=accuracy(unbiased),
        vote_asr=vote_successes(clean, best).rate.value,
        averaged_asr=averaged_successes(clean, best).rate.value,
        any_asr=any_successes(clean, best).rate.value,
        images=images,
        gradients=sum(tally.gradients for tally in tallies) / images,
        queries=sum(tally.queries for tally in tallies) / images,
        seconds=sum(tally.seconds for tally in tallies),
        median_l2=l2.median().item(),
        settings=f"for each image the best of {len(attacked)} attacks",
        successes=hit,
        score=unbiased,
        more=_more(clean, best),
    )


def settings(batches: Sequence[BatchResult], device: torch.device, **given: Any) -> dict[str, Any]:
    """Everything a reader needs to run it again."""
    return {
        "images": sum(len(batch.clean.averaged) for batch in batches),
        "fingerprint": fingerprint(batch.sums for batch in batches),
        **given,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": {
            "stocnoise": version("stocnoise"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
