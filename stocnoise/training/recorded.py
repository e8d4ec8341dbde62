"""What the checkpoint of a run holds, field by field: looked at before anything of it is put back."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stocnoise import schema
from stocnoise.errors import CheckpointError, FileFormatError
from stocnoise.training.history import Epoch


def require_run(path: Path, tree: Any, process: int) -> None:
    """Raise CheckpointError, naming the field, unless `tree`, read from `path`, is of a run; `process` is this one."""
    try:
        _RUN(tree, "")
        if process >= len(tree["processes"]):
            raise FileFormatError(f"processes must be at least {process + 1}, not {len(tree['processes'])}")
    except FileFormatError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _figure(value: Any, field: str) -> None:
    """A number, NaN and infinity too."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        schema.refuse(field, "a number", value)


def _tensor(dtype: torch.dtype | None = None) -> schema.Spec:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, Tensor) or (dtype is not None and value.dtype != dtype):
            schema.refuse(field, "a tensor" if dtype is None else f"a tensor of {dtype}", value)

    return check


def _generator(value: Any, field: str) -> None:
    """The state of one of PyTorch's generators."""
    _tensor(torch.uint8)(value, field)
    if value.dim() != 1:
        schema.refuse(field, "bytes in one dimension", tuple(value.shape))


def _python(value: Any, field: str) -> None:
    """What `random.getstate` gives: version, 624 words with a position, and a normal that waits."""
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(value[1], tuple) or len(value[1]) != 625:
        schema.refuse(field, "a state of Python's random", value)
    schema.whole(3, 3)(value[0], f"{field}[0]")
    schema.items(schema.whole(0, 2**32 - 1))(list(value[1]), f"{field}[1]")
    schema.whole(0, 624)(value[1][-1], f"{field}[1][624]")
    schema.optional(_figure)(value[2], f"{field}[2]")


def _numpy(value: Any, field: str) -> None:
    """Words, position, whether a normal waits, and which."""
    if not isinstance(value, list) or len(value) != 4:
        schema.refuse(field, "a state of NumPy's generator", value)
    _tensor(torch.int64)(value[0], f"{field}[0]")
    if tuple(value[0].shape) != (624,):
        schema.refuse(f"{field}[0]", "624 words", tuple(value[0].shape))
    schema.whole(0, 624)(value[1], f"{field}[1]")
    schema.whole(0, 1)(value[2], f"{field}[2]")
    _figure(value[3], f"{field}[3]")


_EPOCH = schema.record(
    {"epoch": schema.whole(1), "loss": _figure},
    {
        "sigma": schema.mapping(_figure),
        "lr": _figure,
        "seconds": _figure,
        "best": schema.boolean,
        "collapsed": schema.boolean,
        "unperturbed": schema.whole(0),
        **{
            field.name: schema.optional(_figure)
            for field in fields(Epoch)
            if field.name not in ("epoch", "loss", "sigma", "lr", "seconds", "collapsed", "unperturbed")
        },
    },
)

_RUN = schema.record(
    {
        "settings": schema.mapping(schema.anything),
        "epoch": schema.whole(0),
        "step": schema.whole(0),
        "batch": schema.whole(0),
        "stop": schema.boolean,
        "model": schema.mapping(_tensor()),
        "optimizer": schema.record(
            {
                "state": schema.mapping(schema.anything),
                "param_groups": schema.items(schema.mapping(schema.anything)),
            },
            others=True,
        ),
        "callbacks": schema.items(schema.anything),
        "history": schema.items(_EPOCH),
        "processes": schema.items(
            schema.record(
                {
                    "random": schema.record(
                        {"torch": _generator, "python": _python, "numpy": _numpy}, {"device": _generator}
                    ),
                    "tally": _tensor(),
                    "buffers": schema.items(_tensor()),
                }
            )
        ),
    },
    {"best": schema.record({"epoch": schema.whole(1), "model": schema.mapping(_tensor())})},
    others=True,  # the parts that keep a state of their own, by whoever wrote them
)
