"""What holds where every process has a whole student: σ, noise, resuming, errors. Run by process_worker.py."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import training_models as tiny
from accelerate.utils import gather_object
from process_group import (
    Interrupt,
    after_epoch,
    agree,
    best_of,
    halves,
    sigmas,
    without_batch_norm,
    without_gamma,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import CheckpointError, NonFiniteError, StocReLUEMA
from stocnoise.distributed import one_message
from stocnoise.training import checkpoints


def sigma_is_that_of_the_global_batch(folder: Path, rank: int) -> dict[str, bool]:
    expected = []
    x = torch.cat(halves()).double()
    alone = without_batch_norm(gamma=0.0).double()
    for layer in alone:
        if isinstance(layer, StocReLUEMA):
            expected.append(0.5 * x.transpose(0, 1).flatten(1).std(1))
            x = x.relu()
        else:
            x = layer(x)
    wanted = torch.cat(expected).float()
    results = {}
    for name, block in (("one message a layer", None), ("one message", one_message)):
        model = DistributedDataParallel(without_batch_norm(gamma=0.0))
        if block is None:
            model(halves()[rank])
        else:
            with block():
                model(halves()[rank])
                standing_still = not sigmas(model).any()
            results["sigma stands still within the block"] = bool(standing_still)
        results[f"{name}: equals one process"] = torch.allclose(sigmas(model), wanted, rtol=1e-5, atol=1e-7)
        results[f"{name}: alike on every rank"] = agree(sigmas(model))
    return results


def noise_differs(folder: Path, rank: int) -> dict[str, bool]:
    layer = StocReLUEMA(4, gamma=1.0)
    layer.sigma.fill_(1.0)
    layer.num_batches_tracked.fill_(1)
    torch.manual_seed(5)
    return {"noise differs between ranks seeded alike": not agree(layer.eval()(torch.ones(2, 4, 3, 3)))}


def a_run(folder: Path, rank: int) -> dict[str, bool]:
    inputs: list[Tensor] = []
    after_first: list[Tensor] = []
    images: list[Any] = []

    class Watch(stocnoise.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == 1:
                after_first.append(sigmas(run.student))

        def on_epoch_begin(self, run: Any) -> None:
            if run.epoch == 0:
                run.student[2].register_forward_pre_hook(
                    lambda layer, x: inputs.append(x[0].detach()) if layer.training else None
                )
                run.student[0].register_forward_pre_hook(lambda layer, x: images.append(x[0].detach()))

    model = tiny.student()
    history = tiny.finetune(model, callbacks=[Watch()], checkpoint_dir=folder / "whole", val_loader=tiny.loader(10))
    both = torch.cat(gather_object([inputs[0]])).double()
    expected = 0.5 * both.transpose(0, 1).flatten(1).std(1).float()
    loss = [epoch.loss for epoch in history]
    return {
        "run: sigma of the global batch": torch.allclose(after_first[0][:4], expected, rtol=1e-5, atol=1e-7),
        "run: sigma alike": agree(sigmas(model)),
        "run: weights alike": agree(torch.cat([p.detach().flatten() for p in model.parameters()])),
        "run: figures alike": agree(torch.tensor(loss)),
        "run: images differ": not agree(images[0]),
        "run: half the batches each": len(inputs) == 4,
        "run: validation sees each image once": history[-1].val_accuracy in [k / 10 for k in range(11)],
    }


def resumes(folder: Path, rank: int) -> dict[str, bool]:
    def run(name: str, step: int | None) -> nn.Module:
        model = tiny.student()
        tiny.finetune(
            model,
            tiny.loader(batch_size=4),
            epochs=3,
            attack=stocnoise.PGD(eps=0.1, steps=20),
            checkpoint_dir=folder / name,
            checkpoint_every=1,
            resume=True,
            callbacks=[Interrupt(step)],
        )
        return model

    whole = run("never-stopped", None)
    with contextlib.suppress(KeyboardInterrupt):
        run("stopped", 2)
    dist.barrier()
    again = run("stopped", None)
    return {"resumes bit for bit": tiny.same(whole.state_dict(), again.state_dict())}


def failures_reach_every_rank(folder: Path, rank: int) -> dict[str, bool]:
    written = checkpoints.write

    def full(path: Path, tree: Any) -> None:
        raise CheckpointError("the disk is full")

    checkpoints.write = full
    try:
        tiny.finetune(tiny.student(), checkpoint_dir=folder / "full")
    except CheckpointError as error:
        raised = "disk is full" in str(error)
    else:
        raised = False
    finally:
        checkpoints.write = written
    return {"a full disk is an error everywhere": all(gather_object([raised]))}


def nan_stops_every_rank(folder: Path, rank: int) -> dict[str, bool]:
    x, y = tiny.data(8).tensors
    x[3] = torch.nan  # one rank's image
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    try:
        tiny.finetune(tiny.student(), loader, objective="clean")
    except NonFiniteError as error:
        said = str(error)
    else:
        said = ""
    origins = gather_object([said])
    return {
        "NaN on one rank stops all": all("it began in" in origin for origin in origins),
        "NaN: one rank names the images": sum("the images themselves" in origin for origin in origins) == 1,
    }


def averages_agree(folder: Path, rank: int) -> dict[str, bool]:
    """The statistics of an averaged student are those of all ranks; an epoch ends a group of batches."""
    history = tiny.finetune(tiny.student(), tiny.loader(batch_size=4), accumulate=2, ema=0.5, objective="mixed")
    state = history.averaged.state_dict()
    return {"average: alike on every rank": agree(torch.cat([value.double().flatten() for value in state.values()]))}


def the_best_epoch(folder: Path, rank: int) -> dict[str, bool]:
    """Buffers too, which differ between ranks after a training pass; and again from the checkpoint, which holds one."""
    settings: dict[str, Any] = {"checkpoint_dir": folder / "best", "resume": True, "val_loader": tiny.loader(10)}
    best = best_of(tiny.finetune(tiny.student(), **settings))
    again = best_of(tiny.finetune(tiny.student(seed=1), **settings))
    return {
        "best: alike on every rank": agree(torch.cat([v.double().flatten() for v in best.state_dict.values()])),
        "best: of its epoch": tiny.same(without_gamma(best.state_dict), after_epoch(folder / "best", best.epoch)),
        "best: resumes": again == best and tiny.same(again.state_dict, best.state_dict),
    }


def guided_by_a_teacher(folder: Path, rank: int) -> dict[str, bool]:
    """The gradient is that of the whole batch, through features too; a classifier without gradient stalls nobody."""

    def plain(seed: int) -> nn.Sequential:
        return tiny.student(lambda channels, activation: nn.ReLU(), seed=seed)

    teacher, attack = plain(seed=1), stocnoise.PGD(eps=0.1, steps=1)
    x, y = tiny.data(8).tensors
    whole, shared = plain(seed=0).eval(), DistributedDataParallel(plain(seed=0).eval())
    mine = slice(4 * rank, 4 * rank + 4)
    for model, part in ((whole, slice(8)), (shared, mine)):
        guide = stocnoise.Guided(teacher, on="features", objective="clean")
        guide(stocnoise.Step(model, x[part], y[part], attack)).backward()
    pairs = zip(whole.parameters(), shared.parameters(), strict=True)
    results = {"guided: gradient of the whole batch": all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)}

    unlabelled = stocnoise.Guided(teacher, on="features", objective=None)
    student = tiny.student()
    try:
        tiny.finetune(student, objective=unlabelled)
    except ValueError as error:
        results["guided: a classifier that would stall is refused"] = "requires_grad_(False)" in str(error)
    student[7].requires_grad_(False)
    tiny.finetune(student, objective=unlabelled)
    weights = torch.cat([p.detach().flatten() for p in student.parameters()])
    results["guided: weights alike"] = agree(weights) and agree(sigmas(student))
    return results


CHECKS = [
    guided_by_a_teacher,
    averages_agree,
    the_best_epoch,
    sigma_is_that_of_the_global_batch,
    noise_differs,
    a_run,
    resumes,
    failures_reach_every_rank,
    nan_stops_every_rank,
]
