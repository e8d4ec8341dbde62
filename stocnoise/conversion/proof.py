"""What is proved of a student: nothing is called outside its layers, and without noise it is the model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from stocnoise.controls import deterministic
from stocnoise.conversion.changing.revert import revert
from stocnoise.conversion.changing.sites import Plan
from stocnoise.conversion.example import Example
from stocnoise.conversion.finding.calls import name_of
from stocnoise.conversion.finding.chance import FIRST, random_state_kept
from stocnoise.conversion.finding.places import paths_of
from stocnoise.conversion.finding.skeleton import skeleton
from stocnoise.conversion.finding.survey import Survey, survey
from stocnoise.errors import ConversionError, ExampleInputError, UnsupportedActivationError
from stocnoise.undo import same_modes


def audit(student: nn.Module, examples: Sequence[Example], plan: Plan, found: Survey) -> None:
    """Prove that no activation is called outside a stochastic layer, that every layer runs as often as its site was
    seen to, and that all else is called as before: the same functions in the same order, on the same shapes.

    Args:
        student: what was made.
        examples: what its model was surveyed with.
        plan: what was to be done.
        found: what the survey showed of the model.

    Raises:
        UnsupportedActivationError: naming what is missed.
    """
    calls = max(sum(p.calls[number] for p in plan.placements) for number in range(len(found.runs)))
    try:
        after = survey(student, examples, most=_ENDLESS * calls, whole=plan.entries.keys())
    except ExampleInputError as error:
        raise UnsupportedActivationError(
            f"with its activations replaced the model does not run any more ({error.__cause__}); {_SEVERAL}"
        ) from error
    paths = paths_of(after.views.model)
    spared = {item.name for item in plan.left} | set(plan.entries)
    missed = {
        name_of(call, paths)
        for run in after.runs
        for call in run.record.calls
        if not (call.noisy or name_of(call, paths) in spared)
    }
    if missed:
        raise UnsupportedActivationError(
            "these activations are still called without noise; exclude them, or report this: "
            + ", ".join(sorted(missed))
        )
    for number, now in enumerate(after.runs[: len(found.runs)]):
        expected = {p.path: p.calls[number] for p in plan.placements}
        _require_counts(str(now), expected, Counter(paths[layer] for layer in now.record.ran))
    unwatched = [not run.training and run.chance == FIRST for run in after.runs]
    expected = {p.path: sum(itertools.compress(p.calls, unwatched)) for p in plan.placements}
    _require_counts("eval, by a fast path of torch", expected, after.unwatched)
    different = _difference(found, after)
    if different is not None and _difference(found, _again(student, examples)) is None:
        raise UnsupportedActivationError(
            f"with its activations replaced the model computes something else ({different}): it asks one of its "
            "activation modules for what a stochastic layer does not have, such as the name of its class. Let it ask "
            "something else, or exclude that activation"
        )


def _require_counts(mode: str, expected: Mapping[str, int], counts: Mapping[str, int]) -> None:
    wrong = [path for path, times in expected.items() if counts[path] != times]
    if wrong:
        raise UnsupportedActivationError(
            f"in {mode} mode these activations are not called as often as before: {', '.join(wrong)}; {_SEVERAL}"
        )


def _difference(before: Survey, after: Survey) -> str | None:
    """Where two surveys first called different functions, or on different shapes."""
    for was, now in itertools.zip_longest(before.runs, after.runs):
        if was is None or now is None or (was.training, was.chance) != (now.training, now.chance):
            return "other random numbers"
        for a, b in itertools.zip_longest(was.record.functions, now.record.functions):
            if a != b:
                return f"in {now} mode, {a[0] if a else 'nothing'} before, {b[0] if b else 'nothing'} now"
    return None


def _again(student: nn.Module, examples: Sequence[Example]) -> Survey:
    """A second survey of the model: what compiled functions call, or one with a memory, differs from run to run."""
    student = skeleton(student, None)
    return survey(revert(student, inplace=True), examples)


_ENDLESS = 10


_SEVERAL = (
    "one call in the code may reach activations at one time and other functions at another: write calls of their own "
    "for the activations, or exclude them"
)


def compare(student: nn.Module, example: Example) -> None:
    """Run teacher and student, its noise off, on random input: they must agree bit for bit.

    Raises:
        ConversionError: they do not.
    """
    teacher = revert(student).eval()
    with random_state_kept(student):
        given = example.map(lambda t: torch.randn_like(t) if t.is_floating_point() else t)
    with same_modes(student):
        try:
            outputs = _outputs(teacher, student.eval(), given)
        except Exception:  # numbers that mean something, such as indices in a table
            outputs = _outputs(teacher, student.eval(), (example.args, example.kwargs))
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True)):
        raise ConversionError("without noise the student does not compute what the model computes; report this")


def _outputs(teacher: nn.Module, student: nn.Module, given: Any) -> list[list[torch.Tensor]]:
    outputs = []
    for model, quiet in ((teacher, nullcontext()), (student, deterministic(student))):
        args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, given)
        with torch.no_grad(), random_state_kept(model), quiet:
            outputs.append([leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)])
    return outputs
