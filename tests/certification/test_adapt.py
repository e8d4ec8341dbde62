"""BatchNorm fed with noise: its statistics are those of noisy inputs, and nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import stocnoise
from stocnoise import adapt_batch_norm, with_input_noise


def test_the_statistics_are_those_of_noisy_inputs() -> None:
    torch.manual_seed(0)
    x = 0.5 + 0.1 * torch.randn(400, 3, 4, 4)
    norm = nn.BatchNorm2d(3, momentum=0.1)
    model = with_input_noise(nn.Sequential(norm, nn.Dropout(0.5)), 0.3).eval()
    adapt_batch_norm(model, [(batch, torch.zeros(100)) for batch in x.split(100)])
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.1**2 + 0.3**2), atol=0.006, rtol=0)
    assert norm.momentum == 0.1 and not norm.training and norm.num_batches_tracked == 4


def test_each_batch_counts_alike_and_no_more_than_asked() -> None:
    norm = nn.BatchNorm1d(1)
    with torch.no_grad():
        norm.running_mean.fill_(100)
    adapt_batch_norm(norm, [(torch.full((4, 1), float(v)), torch.zeros(4)) for v in (1, 2, 6, 1000)], batches=3)
    assert norm.running_mean.item() == pytest.approx(3.0) and norm.training


def test_weights_and_sigma_of_the_layers_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    x = torch.rand(16, 1, 8, 8)
    model = stocnoise.convert(net, x, gamma=0.1, input_noise=0.2)
    model(x)
    before = copy.deepcopy(model.state_dict())
    adapt_batch_norm(model, [(x, torch.zeros(16))])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"model.1.running_mean", "model.1.running_var"}
    assert all(module.training for module in model.modules())


def test_what_it_refuses() -> None:
    data = [(torch.rand(4, 3), torch.zeros(4))]
    with pytest.raises(ValueError, match="has no BatchNorm"):
        adapt_batch_norm(nn.Linear(3, 3), data)
    with pytest.raises(ValueError, match="at least 1"):
        adapt_batch_norm(nn.BatchNorm1d(3), data, batches=0)
    with pytest.raises(ValueError, match="no batch"):
        adapt_batch_norm(nn.BatchNorm1d(3), [])
