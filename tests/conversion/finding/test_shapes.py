"""Calls whose result is told from shapes while a model runs without data: the same shapes, and nothing left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import stocnoise
from stocnoise.conversion.finding.shapes import result, shorten
from tests.conversion_checks import converted, layers, tensors


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((14,), {}),
        ((None, 1.7), {}),
        (((3, 5),), {}),
        ((), {"size": [4, 4], "mode": "bilinear"}),
        ((), {"scale_factor": (0.5, 2.3)}),
        ((), {"scale_factor": 2.0, "recompute_scale_factor": True}),
    ],
)
def test_interpolation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    x = torch.empty(2, 4, 7, 9, device="meta")
    found = result("interpolate", (x, *args), kwargs)
    assert found is not None and found.shape == F.interpolate(x, *args, **kwargs).shape


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True, proj_size=3), (2, 6, 4)),
        (nn.LSTM(4, 5), (6, 2, 4)),
        (nn.GRU(4, 5, bidirectional=True), (6, 2, 4)),
        (nn.RNN(4, 5), (6, 4)),
    ],
)
def test_recurrent_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer, x = layer.to("meta"), torch.empty(shape, device="meta")
    short = copy.deepcopy(layer)
    shorten(short)
    assert [y.shape for y in tensors(short(x))] == [y.shape for y in tensors(layer(x))]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        steps, (_, last) = self.lstm(x)
        packed, _ = self.lstm(pack_sequence([*x]))
        return self.act(steps) + self.act(last.transpose(0, 1)) + packed.data[:5].unsqueeze(1).mean()


def test_a_model_with_a_recurrent_layer() -> None:
    x = torch.randn(2, 6, 4)
    student = converted(Recurrent(), x)
    assert len(layers(student)) == 3
    assert "forward" not in vars(student.lstm)
    assert [site.channels for site in stocnoise.find_sites(Recurrent(), x)] == [3, 5, 5]
