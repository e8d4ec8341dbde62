"""Batches that cannot be trained on, and loaders that do not keep to their length: said as early as it can be known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import Callback, Trades


class Steps(Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, run: stocnoise.training.Run) -> None:
        self.count += 1


def with_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def rows(n: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(n, 4, generator=generator), torch.randint(3, (n,), generator=generator))


@pytest.mark.parametrize("objective", ["at", "clean", stocnoise.Learn2Perturb()])
def test_a_last_batch_of_one_row_is_refused_at_once(objective: Any) -> None:
    model, steps = with_norm(), Steps()
    if isinstance(objective, stocnoise.Learn2Perturb):
        model = stocnoise.convert(model, torch.rand(2, 4), layer=stocnoise.StocL2P)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"one row, of which BatchNorm \(1\).*drop_last=True"):
        tiny.finetune(model, DataLoader(rows(17), batch_size=4), objective=objective, callbacks=[steps])
    assert steps.count == 0
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if "gamma" not in name)


def test_where_nothing_tells_it_is_refused_before_that_batch() -> None:
    x, y = rows(9).tensors
    model = with_norm()
    seen: list[Tensor] = []

    class Look(Callback):
        def on_step_end(self, run: stocnoise.training.Run) -> None:
            seen.append(model[1].running_mean.clone())

    with pytest.raises(ValueError, match="drop_last=True"):
        tiny.finetune(model, [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])], callbacks=[Look()])
    assert len(seen) == 2
    assert torch.equal(model[1].running_mean, seen[-1])


def frozen() -> nn.Sequential:
    model = with_norm().train()
    model[1].eval()
    return model


@pytest.mark.parametrize(
    ("model", "data", "settings"),
    [
        (with_norm, rows(17), {"objective": "mixed"}),
        (with_norm, rows(17), {"objective": Trades()}),
        (frozen, rows(17), {}),
        (lambda: nn.Sequential(nn.Linear(4, 3)), rows(17), {}),
        (tiny.student, tiny.data(17), {}),  # an image has many values a channel
    ],
)
def test_one_row_is_trained_on_where_it_can_be(model: Any, data: Any, settings: dict[str, Any]) -> None:
    steps = Steps()
    tiny.finetune(model(), DataLoader(data, batch_size=4), epochs=1, callbacks=[steps], **settings)
    assert steps.count == 5


def test_dropped_rows_are_none() -> None:
    tiny.finetune(with_norm(), DataLoader(rows(17), batch_size=4, drop_last=True), epochs=1)


class Nominal:
    """A loader with a length of 3 batches that gives others."""

    def __init__(self, *batches: int) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = tiny.data(8).tensors
        for _ in range(self.batches.pop(0)):
            yield x, y


def test_batches_beyond_the_length_are_left_out_with_a_word() -> None:
    steps = Steps()
    with pytest.warns(UserWarning, match="length of 3 batches and gives more") as caught:
        history = tiny.finetune(tiny.student(), Nominal(5, 5), callbacks=[steps])
    assert len(caught) == 1
    assert steps.count == 6
    assert history[-1].lr < 0.001  # the cycle ends with the run


def test_missing_batches_are_said() -> None:
    steps = Steps()
    with pytest.warns(UserWarning, match="length of 3 batches and gives 2"):
        history = tiny.finetune(tiny.student(), Nominal(2, 3), callbacks=[steps])
    assert steps.count == 5
    assert len(history) == 2


def test_a_loader_that_is_empty_the_second_time_is_an_error() -> None:
    steps = Steps()
    with pytest.raises(ValueError, match="no batch in epoch 2"):
        tiny.finetune(tiny.student(), Nominal(3, 0), callbacks=[steps])
    assert steps.count == 3
