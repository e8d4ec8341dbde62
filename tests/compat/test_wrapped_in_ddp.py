"""Two processes over gloo: DDP and FSDP2."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import stocnoise
from tests.compat.models import Small, images, sigmas, small_student

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"),
]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _enter(rank: int, work: Callable[..., None], port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        warnings.simplefilter("error", stocnoise.UncalibratedWarning)
        work(rank, *args)
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.barrier()
    # In one run of nine PyTorch aborts while a process takes its group down, which says nothing of what was tested.
    os._exit(0)


def spawn(work: Callable[..., None], *args: Any) -> None:
    """Run `work(rank, *args)` in two processes; whatever one raises, this raises."""
    mp.spawn(_enter, args=(work, _free_port(), args), nprocs=2)


def _gathered(x: torch.Tensor) -> list[torch.Tensor]:
    both = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(both, x.contiguous())
    return both


def _ddp(rank: int) -> None:
    for options in ({}, {"find_unused_parameters": True}, {"static_graph": True}):
        _ddp_steps(rank, options)
    _ddp_sigma(rank)
    with pytest.raises(stocnoise.WrappedModelError, match="convert the model first"):
        stocnoise.convert(nn.parallel.DistributedDataParallel(Small()), images())


def test_ddp_trains_as_one_process_and_sigma_is_that_of_the_global_batch() -> None:
    """With each of DDP's options; and a model that is wrapped already is refused, with advice."""
    spawn(_ddp)


def _ddp_steps(rank: int, options: dict[str, bool]) -> None:
    student = small_student(gamma=0.0, training=True)
    whole = small_student(gamma=0.0, training=True)
    for model in (student, whole):  # BatchNorm's statistics are those of each rank, which is not the point here
        model.stem[1].eval()
    model = nn.parallel.DistributedDataParallel(student, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = images(8)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch[rank::2]).square().mean().backward()
        optimizer.step()
    reference = torch.optim.SGD(whole.parameters(), lr=0.1)
    # The processes' common group would make this one's statistics common, too: turn sigma alone by hand.
    with stocnoise.freeze_sigma(whole):
        for _ in range(3):
            reference.zero_grad()
            whole(batch).square().mean().backward()
            reference.step()
    for mine, expected in zip(student.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)
    for sigma in sigmas(student):
        a, b = _gathered(sigma)
        assert torch.equal(a, b)
    stocnoise.set_gamma(student, 0.5)
    a, b = _gathered(model(batch[:2]).detach())
    assert not torch.equal(a, b)  # ranks seeded alike make different noise


def _ddp_sigma(rank: int) -> None:
    student = small_student(gamma=0.0, training=True)
    student.stem[1].eval()
    seen = {}
    first = student.stem[2]
    first.register_forward_pre_hook(lambda layer, args: seen.update(x=args[0].detach()))
    before = first.sigma.clone()
    nn.parallel.DistributedDataParallel(student)(images(8)[rank::2] * (1 + rank))
    x = torch.cat(_gathered(seen["x"]))
    expected = 0.5 * before + 0.5 * x.double().std(dim=(0, 2, 3))
    torch.testing.assert_close(first.sigma.double(), expected.double(), rtol=1e-5, atol=1e-6)


def _fsdp_step(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    student = small_student(gamma=0.0, training=True)
    student.stem[1].eval()
    replicated = small_student(gamma=0.0, training=True)
    replicated.stem[1].eval()
    fully_shard(student.fc1, mesh=mesh)
    fully_shard(student, mesh=mesh)
    ddp = nn.parallel.DistributedDataParallel(replicated)
    batch = images(8)[rank::2]
    for model in (student, ddp):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    for mine, expected in zip(student.parameters(), replicated.parameters(), strict=True):
        torch.testing.assert_close(mine.full_tensor(), expected)
    for mine, expected in zip(sigmas(student), sigmas(replicated), strict=True):
        assert torch.equal(mine, expected)


def test_fully_shard_trains_as_ddp() -> None:
    spawn(_fsdp_step)
