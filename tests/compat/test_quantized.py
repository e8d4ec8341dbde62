"""Quantised models are refused with a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stocnoise


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantised_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(stocnoise.ConversionError, match=r"quantised.*convert the model first"):
        stocnoise.convert(quantised, torch.zeros(2, 8))


@pytest.mark.filterwarnings("ignore")
def test_a_statically_quantised_model_of_torchvision_is_refused() -> None:
    from torchvision import models

    model = models.quantization.resnet18(weights=None, quantize=True)
    with pytest.raises(stocnoise.ConversionError, match=r"quantised.*convert the model first"):
        stocnoise.convert(model)


@pytest.mark.filterwarnings("ignore")
def test_a_model_prepared_for_quantisation_but_not_quantised_converts() -> None:
    from torchvision import models

    model = models.quantization.resnet18(weights=None, quantize=False)
    assert len(list(stocnoise.stochastic_layers(stocnoise.convert(model)))) == 17
