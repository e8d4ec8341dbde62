"""What AWP and a guard do where several processes train. Run by process_worker.py."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import training_models as tiny
from accelerate.state import AcceleratorState
from process_group import Interrupt, agree
from sharded_checks import fsdp_accelerator
from test_awp import FIXED, GAMMA, by_hand, images, plain, sgd
from test_guard import Destroy, Notes, held
from torch import nn
from torch.nn.functional import cross_entropy

import stocnoise
from stocnoise import AWP, Guard


def awp_is_of_the_global_batch(folder: Path, rank: int) -> dict[str, bool]:
    """Two steps in float64, two processes and two batches each, against the whole batches by hand."""
    model, expected = plain(), plain()
    settings: dict[str, Any] = {"epochs": 1, "attack": FIXED, "awp": AWP(GAMMA), "accumulate": 2}
    tiny.finetune(model, images(16, 2), **settings | sgd(0.1))
    for x, y in images(16, 8):
        attacked = FIXED(expected, x, y)
        by_hand(expected, lambda at_w, x=attacked, y=y: cross_entropy(at_w(x), y), lr=0.1)
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    return {
        "awp: equals one process": all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in pairs),
        "awp: weights alike": agree(torch.cat([p.detach().flatten() for p in model.parameters()])),
    }


def a_gradient_that_is_not_finite_on_one_rank_moves_none(folder: Path, rank: int) -> dict[str, bool]:
    calls: list[int] = []

    def objective(step: stocnoise.Step) -> torch.Tensor:
        calls.append(rank)
        return stocnoise.training.objectives.at(step) * (torch.nan if len(calls) == 1 and rank == 1 else 1)

    model, usual = plain(), plain()
    settings: dict[str, Any] = {"epochs": 1, "attack": FIXED} | sgd(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        history = tiny.finetune(model, images(8, 4), objective=objective, awp=AWP(GAMMA), **settings)
    tiny.finetune(usual, images(8, 4), **settings)
    return {
        "awp: one rank's NaN leaves it out": history[0].unperturbed == 1,
        "awp: without it the step is as usual": tiny.same(model.state_dict(), usual.state_dict()),
    }


def both_resume(folder: Path, rank: int) -> dict[str, bool]:
    """The third epoch (steps 7 to 9) collapses; stopped within it."""

    notes: list[Notes] = []

    def run(name: str, step: int | None) -> tuple[nn.Module, stocnoise.History]:
        model = tiny.student()
        notes.append(Notes())
        history = tiny.finetune(
            model,
            tiny.loader(60, batch_size=10),
            epochs=4,
            awp=AWP(0.02),
            ema=0.5,
            guard=Guard(held()),
            checkpoint_dir=folder / name,
            checkpoint_every=1,
            resume=True,
            callbacks=[Interrupt(step), Destroy(3), notes[-1]],
        )
        return model, history

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a collapse", UserWarning)
        whole, history = run("guarded", None)
        with contextlib.suppress(KeyboardInterrupt):
            run("guarded-stopped", 9)
        dist.barrier()
        again, later = run("guarded-stopped", None)
    state, gone_back = whole.state_dict(), notes[0].states[2]
    figures = torch.tensor([[epoch.guard_accuracy, epoch.loss] for epoch in history])
    return {
        "guard: goes back": [epoch.collapsed for epoch in history] == [False, False, True, False],
        "guard: goes back to one student": agree(torch.cat([gone_back[name].double().flatten() for name in gone_back])),
        "guard: students alike": agree(torch.cat([w.detach().flatten() for w in whole.parameters()])),
        "guard: figures alike": agree(figures),
        "guard: resumes bit for bit": tiny.same(state, again.state_dict()),
        "guard: the average resumes": tiny.same(history.averaged.state_dict(), later.averaged.state_dict()),
    }


def shards_are_refused(folder: Path, rank: int) -> dict[str, bool]:
    said = []
    for settings in ({"awp": AWP()}, {"guard": Guard(held())}):
        try:
            tiny.finetune(tiny.student(), accelerator=fsdp_accelerator(), **settings)
        except ValueError as error:
            said.append(f"{next(iter(settings))} needs whole weights" in str(error))
        finally:
            AcceleratorState._reset_state()
    return {"awp and guard: FSDP is refused": said == [True, True]}


CHECKS = [
    awp_is_of_the_global_batch,
    a_gradient_that_is_not_finite_on_one_rank_moves_none,
    both_resume,
    shards_are_refused,
]
