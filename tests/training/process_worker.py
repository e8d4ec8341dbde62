"""Run by test_distributed.py in each of two processes: checks that need a process group. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import contextlib

import torch
import torch.distributed as dist
import training_models as tiny
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import CheckpointError, NonFiniteError, StocReLUEMA, stochastic_layers
from stocnoise.distributed import one_message
from stocnoise.training import checkpoints
from stocnoise.training.states import get_states, set_states


def without_batch_norm(gamma: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), StocReLUEMA(4, gamma=gamma), nn.Conv2d(4, 5, 3), StocReLUEMA(5, gamma=gamma),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def halves() -> tuple[Tensor, Tensor]:
    """Uneven on purpose: 5 and 7 images."""
    images = tiny.data(12).tensors[0]
    return images[:5], images[5:]


def sigmas(model: nn.Module) -> Tensor:
    return torch.cat([layer.sigma.detach().clone() for _, layer in stochastic_layers(model)])


def agree(value: Tensor) -> bool:
    return len({tuple(v) for v in gather_object([value.flatten().tolist()])}) == 1


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


class Interrupt(stocnoise.Callback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, run: Any) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


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


CHECKS: list[Callable[[Path, int], dict[str, bool]]] = [
    sigma_is_that_of_the_global_batch,
    noise_differs,
    a_run,
    resumes,
    failures_reach_every_rank,
    nan_stops_every_rank,
    sharded,
    a_sharded_run,
]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    rank = PartialState(cpu=True).process_index
    results: dict[str, bool] = {}
    for check in CHECKS:
        results |= check(folder, rank)
    dist.destroy_process_group()
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
