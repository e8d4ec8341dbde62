"""The example input that a file recalls: values that matter are in it; where it does not serve, `load` says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import stocnoise
from stocnoise.conversion.example import Example
from stocnoise.errors import FileFormatError


class Sequences(nn.Module):
    """A GRU over sequences of given lengths, none of which may be 0."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


class Graph(nn.Module):
    """Its input is no JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, graph: Any) -> Tensor:
        return self.head(graph.nodes)


class Nodes:
    def __init__(self) -> None:
        self.nodes = torch.zeros(2, 3)


def test_lengths_keep_their_values(tmp_path: Path) -> None:
    given = (torch.zeros(2, 5, 3), torch.tensor([5, 2]))
    student = stocnoise.convert(Sequences(), given)
    stocnoise.save(student, tmp_path / "s")
    loaded = stocnoise.load(tmp_path / "s", Sequences())
    assert [path for path, _ in stocnoise.stochastic_layers(loaded)] == ["head.1"]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([5, 2]),
        torch.tensor([[True, False], [False, True]]),
        torch.tensor([255, 0], dtype=torch.uint8),
        torch.tensor([-(2**63), 2**63 - 1]),
        torch.zeros(3, dtype=torch.int32),
        torch.tensor(7),
    ],
    ids=str,
)
def test_small_tensors_of_integers_come_back(value: Tensor) -> None:
    model = nn.Linear(1, 1)
    (back,) = Example.recall(model, Example(model, (value,)).describe()).args
    assert back.dtype == value.dtype and torch.equal(back, value)


def test_large_ones_and_fractions_come_back_as_zeros() -> None:
    model = nn.Linear(1, 1)
    given = (torch.ones(2000, dtype=torch.int64), torch.ones(2, 2), torch.ones(2, 2, dtype=torch.int64, device="meta"))
    back = Example.recall(model, Example(model, given).describe()).args
    assert [tuple(tensor.shape) for tensor in back] == [(2000,), (2, 2), (2, 2)]
    assert not any(tensor.any() for tensor in back)


def test_where_none_could_be_noted_load_asks_for_one(tmp_path: Path) -> None:
    stocnoise.save(stocnoise.convert(Graph(), (Nodes(),)), tmp_path / "s")
    with pytest.raises(FileFormatError, match=r"image of the default size.*pass stocnoise\.load its example_input"):
        stocnoise.load(tmp_path / "s", Graph())
    assert list(stocnoise.stochastic_layers(stocnoise.load(tmp_path / "s", Graph(), (Nodes(),))))


def test_where_the_one_in_the_file_does_not_serve_load_asks_for_one(tmp_path: Path) -> None:
    stocnoise.save(stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3)), tmp_path / "s")
    with pytest.raises(FileFormatError, match=r"that the file recalls.*pass stocnoise\.load its example_input"):
        stocnoise.load(tmp_path / "s", nn.Sequential(nn.Linear(5, 4), nn.ReLU()))
