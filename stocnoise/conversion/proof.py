"""What is proved of a student: nothing is called outside its layers, and without noise it is the model."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from stocnoise.controls import deterministic
from stocnoise.conversion.changing.revert import revert
from stocnoise.conversion.changing.sites import Plan
from stocnoise.conversion.example import Example
from stocnoise.conversion.finding.places import paths_of
from stocnoise.conversion.finding.probe import name_of, random_state_kept
from stocnoise.conversion.finding.survey import survey
from stocnoise.errors import ConversionError, ExampleInputError, UnsupportedActivationError


def audit(student: nn.Module, example: Example, plan: Plan) -> None:
    """Prove that no activation is called outside a stochastic layer, in train or eval mode, and that every layer runs
    as often as its site was seen to.

    Raises:
        UnsupportedActivationError: naming what is missed.
    """
    try:
        found = survey(student, example)
    except ExampleInputError as error:
        raise UnsupportedActivationError(
            f"with its activations replaced the model does not run any more ({error.__cause__}); {_SEVERAL}"
        ) from error
    paths = paths_of(found.views.model)
    spared = {item.name for item in plan.left}
    missed = {
        name_of(call, paths)
        for record in (found.train, found.eval)
        for call in record.calls
        if not (call.noisy or name_of(call, paths) in spared or name_of(call, paths) in plan.entries)
    }
    if missed:
        raise UnsupportedActivationError(
            "these activations are still called without noise; exclude them, or report this: "
            + ", ".join(sorted(missed))
        )
    ran = {
        "train": Counter(paths[layer] for layer in found.train.ran),
        "eval": Counter(paths[layer] for layer in found.eval.ran),
        "eval, by a fast path of torch": found.unwatched,
    }
    for mode, counts in ran.items():
        expected = {p.path: p.calls[mode.startswith("eval")] for p in plan.placements}
        wrong = [path for path, times in expected.items() if counts[path] != times]
        if wrong:
            raise UnsupportedActivationError(
                f"in {mode} mode these activations are not called as often as before: {', '.join(wrong)}; {_SEVERAL}"
            )


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
    modes = [(module, module.training) for module in student.modules()]
    with random_state_kept(student):
        given = example.map(lambda t: torch.randn_like(t) if t.is_floating_point() else t)
    outputs = []
    try:
        for model, quiet in ((teacher, nullcontext()), (student.eval(), deterministic(student))):
            args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, given)
            with torch.no_grad(), random_state_kept(model), quiet:
                outputs.append([leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)])
    finally:
        for module, training in modes:
            module.training = training
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True)):
        raise ConversionError("without noise the student does not compute what the model computes; report this")
