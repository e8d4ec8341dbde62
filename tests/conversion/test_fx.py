"""Graphs of torch.fx as models: converted like any other, or refused where they write themselves new code."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stocnoise
from tests.conversion_checks import assert_noisy, assert_same_function, layers

X = torch.randn(2, 4, 6, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.SiLU()

    def forward(self, x):  # torch 2.11 does not pickle a graph whose annotations are text, as they are in this file
        x = self.act(self.conv(F.gelu(x)).relu() - 0.1)
        return self.last(self.act(self.conv(x)) + x)


def test_a_traced_model() -> None:
    graph = torch.fx.symbolic_trace(Net())
    student = stocnoise.convert(graph, X)
    assert isinstance(student, torch.fx.GraphModule)
    assert len(layers(student)) == 5
    assert_same_function(graph, student, X)
    assert_noisy(student, X)
    assert not layers(graph)


def test_copies_and_pickles() -> None:
    student = stocnoise.convert(torch.fx.symbolic_trace(Net()), X, gamma=0.2)
    stocnoise.calibrate(student, [X])
    duplicate = copy.deepcopy(student)
    assert len(layers(duplicate)) == 5
    assert_noisy(duplicate, X)
    with pytest.raises(pickle.PicklingError, match=r"pickle stocnoise\.revert"):
        pickle.dumps(student)
    back = pickle.loads(pickle.dumps(stocnoise.revert(student)))
    with stocnoise.deterministic(student):
        assert torch.equal(back.eval()(X), student.eval()(X))


def test_in_place() -> None:
    graph = torch.fx.symbolic_trace(Net())
    assert stocnoise.convert(graph, X, inplace=True) is graph
    assert len(layers(graph)) == 5
    assert_noisy(graph, X)


@pytest.mark.slow
def test_feature_extractors_of_torchvision() -> None:
    """They swap their graph between train and eval mode; made from a student they work."""
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    teacher, x = resnet18().eval(), torch.randn(2, 3, 32, 32)
    with pytest.raises(stocnoise.ConversionError, match="leaf_modules"):
        stocnoise.convert(create_feature_extractor(teacher, ["layer1"]), x)
    student = stocnoise.convert(teacher, x, gamma=0.5)
    stocnoise.calibrate(student, [x])
    features = create_feature_extractor(
        student, ["layer1"], tracer_kwargs={"leaf_modules": [stocnoise.StochasticActivation]}
    )
    assert not torch.equal(features(x)["layer1"], features(x)["layer1"])
    with stocnoise.deterministic(features):
        assert torch.equal(features(x)["layer1"], create_feature_extractor(teacher, ["layer1"])(x)["layer1"])
