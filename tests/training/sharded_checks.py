"""What holds where FSDP shares a student's weights between processes. Run by process_worker.py."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import training_models as tiny
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
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
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import stocnoise
from stocnoise import stochastic_layers
from stocnoise.training import checkpoints
from stocnoise.training.states import get_states, set_states


def sharded(folder: Path, rank: int) -> dict[str, bool]:
    """FSDP2 keeps names, buffers and σ, and its whole state loads into a bare student."""
    bare = without_batch_norm(gamma=0.5)
    model = without_batch_norm(gamma=0.5)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model(halves()[rank]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    names = [name for name, _ in stochastic_layers(model)]
    attack, labels = stocnoise.BIM(eps=0.1, steps=3), torch.zeros(len(halves()[rank]), dtype=torch.long)
    with stocnoise.deterministic(model):
        attacked = attack(model, halves()[rank], labels)
    state, optimizer_state = get_states(model, optimizer)
    whole_sigmas = sigmas(model)
    results = {
        "sharded: names stay": names == [name for name, _ in stochastic_layers(bare)],
        "sharded: sigma alike": agree(sigmas(model)) and bool(sigmas(model).all()),
    }
    stocnoise.GammaSchedule(0.1, 0.2, epochs=1).step(model)
    results["sharded: gamma is set"] = all(abs(layer.gamma - 0.2) < 1e-6 for _, layer in stochastic_layers(model))
    if rank == 0:
        checkpoints.write(folder / "sharded.safetensors", {"model": state, "optimizer": optimizer_state})
    dist.barrier()
    model(attacked).sum().backward()  # training goes on after an attack
    read = checkpoints.read(folder / "sharded.safetensors")
    bare.load_state_dict(read["model"])
    results["sharded: whole state loads into a bare student"] = torch.equal(sigmas(bare), whole_sigmas)
    with stocnoise.deterministic(bare):
        expected = attack(bare, halves()[rank], labels)
    results["sharded: attacked as if whole"] = torch.allclose(attacked, expected)

    again = fully_shard(without_batch_norm(gamma=0.1))
    new_optimizer = torch.optim.SGD(again.parameters(), lr=0.5, momentum=0.9)
    set_states(again, new_optimizer, read["model"], read["optimizer"])
    read = checkpoints.read(folder / "sharded.safetensors")  # setting has put shards into the dicts
    round_trip, optimizer_trip = get_states(again, new_optimizer)
    if rank == 0:
        results["sharded: comes back"] = tiny.same(round_trip, read["model"])
        results["sharded: optimiser comes back"] = all(
            torch.equal(value["momentum_buffer"], read["optimizer"]["state"][name]["momentum_buffer"])
            for name, value in optimizer_trip["state"].items()
        )
        results["sharded: learning rate comes back"] = optimizer_trip["param_groups"][0]["lr"] == 0.1
    return results


def fsdp_accelerator() -> Accelerator:
    """One that shards by FSDP2. Accelerate itself says so on GPUs alone; told by hand, all of it runs on a CPU."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    return accelerator


def a_sharded_run(folder: Path, rank: int) -> dict[str, bool]:
    """`finetune` with an Accelerator of one's own that shards; stopped, resumed, and loaded into a bare student."""

    def run(name: str, step: int | None) -> nn.Module:
        model = tiny.student()
        settings: dict[str, Any] = {"checkpoint_every": 1, "resume": True, "callbacks": [Interrupt(step)]}
        try:
            tiny.finetune(model, accelerator=fsdp_accelerator(), checkpoint_dir=folder / name, **settings)
        finally:
            AcceleratorState._reset_state()
        return model

    whole = run("sharded-whole", None)
    with contextlib.suppress(KeyboardInterrupt):
        run("sharded-stopped", 1)
    dist.barrier()
    again = run("sharded-stopped", None)
    bare = tiny.student(seed=1)
    newest = checkpoints.Checkpoints(folder / "sharded-whole").newest()
    assert newest is not None
    bare.load_state_dict(newest[1]["model"])
    shards = zip(whole.parameters(), again.parameters(), strict=True)
    results = {
        "sharded run: it is sharded": all(isinstance(parameter, DTensor) for parameter in whole.parameters()),
        "sharded run: sigma alike": agree(sigmas(whole)) and bool(sigmas(whole).all()),
        "sharded run: resumes bit for bit": all(torch.equal(a.to_local(), b.to_local()) for a, b in shards),
        "sharded run: sigma resumes": torch.equal(sigmas(whole), sigmas(again)),
        "sharded run: the checkpoint fits a bare student": torch.equal(sigmas(bare), sigmas(whole)),
    }
    try:
        tiny.finetune(again)
    except ValueError as error:
        results["sharded run: a sharded student is refused"] = "sharded already" in str(error)
    return results


def the_best_epoch(folder: Path, rank: int) -> dict[str, bool]:
    """The main process has it whole, for a bare student; the others say so."""
    model, bare = tiny.student(), tiny.student(seed=1)
    settings: dict[str, Any] = {"checkpoint_dir": folder / "sharded-best", "val_loader": tiny.loader(10)}
    try:
        best = best_of(tiny.finetune(model, accelerator=fsdp_accelerator(), **settings))
    finally:
        AcceleratorState._reset_state()
    said = []
    for student in (model, bare):
        try:
            best.restore(student)
        except ValueError as error:
            said.append(str(error))
    results = {
        "sharded best: its epoch is alike": agree(torch.tensor([best.epoch, best.robust_accuracy])),
        "sharded best: no shards are restored": "in shards" in said[0],
    }
    if rank > 0:
        return results | {"sharded best: only the main process has it": "main process alone" in said[1]}
    whole = without_gamma(bare.state_dict())
    return results | {"sharded best: of its epoch": tiny.same(whole, after_epoch(folder / "sharded-best", best.epoch))}


def guided_by_a_teacher(folder: Path, rank: int) -> dict[str, bool]:
    """A guide of features trains shards as it trains whole weights; what no process can gather is refused."""
    teacher = tiny.student(lambda channels, activation, **_: nn.ReLU(), seed=1)
    # Without noise and attack, whose signs turn a rounding into a step.
    settings: dict[str, Any] = {"gamma": None, "objective": stocnoise.Guided(teacher, on="features", objective="clean")}
    whole = tiny.finetune(tiny.student(gamma=0.0), **settings)
    try:
        shards = tiny.finetune(tiny.student(gamma=0.0), accelerator=fsdp_accelerator(), **settings)
    finally:
        AcceleratorState._reset_state()
    refused = ""
    try:
        unlabelled = stocnoise.Guided(teacher, on="features", objective=None)
        tiny.finetune(tiny.student(), accelerator=fsdp_accelerator(), objective=unlabelled)
    except ValueError as error:
        refused = str(error)
    finally:
        AcceleratorState._reset_state()
    return {
        "sharded: guided as if whole": abs(whole[-1].loss - shards[-1].loss) < 1e-4 * whole[-1].loss,
        "sharded: a guide without outputs is refused": "not FSDP" in refused,
    }


CHECKS = [guided_by_a_teacher, sharded, a_sharded_run, the_best_epoch]
