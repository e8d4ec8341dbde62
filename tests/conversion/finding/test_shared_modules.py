"""One activation object in several places, and one block that is called several times."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers, names, sites

X = torch.randn(2, 4, 6, 6)


class TwoNames(nn.Module):
    """One ReLU under two names: `named_children` shows one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1)
        self.first = nn.ReLU()
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(x)))


class TwoParents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.a = nn.Sequential(nn.Conv2d(4, 8, 1), relu)
        self.b = nn.Sequential(nn.Conv2d(8, 3, 1), relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Bottleneck(nn.Module):
    """One ReLU called three times, with two channel counts, as in torchvision's ResNet-50."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2, 1)
        self.bn1 = nn.BatchNorm2d(2)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.conv3 = nn.Conv2d(2, width, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.conv2(y))
        return self.relu(self.conv3(y) + x)


class SharedBlock(nn.Module):
    """A block with weights that is called twice under one name: one place, however often it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Bottleneck()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.block(x)))


class InContainers(nn.Module):
    """One ReLU in a ModuleList, a ModuleDict and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.many = nn.ModuleList([relu, nn.Conv2d(4, 5, 1), relu])
        self.named = nn.ModuleDict({"act": relu, "in": nn.Conv2d(5, 3, 1)})

    def forward(self, x: Tensor) -> Tensor:
        for module in self.many:
            x = module(x)
        return self.named["act"](self.named["in"](x))


class HeldTwice(nn.Module):
    """The parent keeps its child's activation also in a list, outside the module tree, and calls it there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 1)
        self.act = nn.ReLU()
        self.plain = [self.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.plain[0](self.conv(self.act(x)))


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) * 1.7


class ScaledTwice(nn.Module):
    """A module without weights that does more than an activation, called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, channels, 1)
        self.act = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(x)))


def test_a_shared_module_with_two_channel_counts_inside_is_refused() -> None:
    converted(ScaledTwice(4), X)
    with pytest.raises(stocnoise.UnsupportedActivationError, match=r"act\.relu: .* with 4, 5 channels"):
        stocnoise.convert(ScaledTwice(5), X)


def test_one_object_under_two_names_is_two_places() -> None:
    student = converted(TwoNames(), X)
    assert {name: layer.num_channels for name, layer in layers(student).items()} == {"first": 4, "second": 6}


def test_one_object_under_two_parents_is_two_places() -> None:
    student = converted(TwoParents(), X)
    assert {name: layer.num_channels for name, layer in layers(student).items()} == {"a.1": 8, "b.1": 3}


def test_one_object_in_containers() -> None:
    student = converted(InContainers(), X)
    assert {name: layer.num_channels for name, layer in layers(student).items()} == {
        "many.0": 4,
        "many.2": 5,
        "named.act": 3,
    }


def test_a_module_called_from_several_lines_gets_a_layer_for_each() -> None:
    found = sites(Bottleneck(), X)
    assert [(s.name, s.kind, s.channels, s.index) for s in found] == [
        ("relu", "shared", 2, 0),
        ("relu", "shared", 2, 1),
        ("relu", "shared", 4, 2),
    ]
    student = converted(Bottleneck(), X)
    assert set(layers(student)) == {"relu_0", "relu_1", "relu_2"}


def test_a_module_held_outside_the_tree_too() -> None:
    student = converted(HeldTwice(), X)
    assert sorted(layer.num_channels for layer in layers(student).values()) == [4, 5]


def test_a_block_with_weights_called_twice_is_one_place() -> None:
    student = converted(SharedBlock(), X)
    assert len(layers(student)) == 4
    student.train()(X)
    counts = {name: int(layer.num_batches_tracked) for name, layer in layers(student).items()}
    assert set(counts.values()) == {1, 2}


def test_the_root_itself_an_activation() -> None:
    student = converted(nn.ReLU(), X)
    assert isinstance(student, stocnoise.StocReLUEMA)
    assert student.num_channels == 4
    assert type(stocnoise.revert(student)) is nn.ReLU


def test_the_root_an_activation_cannot_be_replaced_in_place() -> None:
    root = nn.ReLU()
    try:
        stocnoise.convert(root, X, inplace=True)
    except stocnoise.ConversionError as error:
        assert "inplace=False" in str(error)
    else:
        raise AssertionError("not refused")


def test_names_follow_the_order_of_calls() -> None:
    assert names(TwoParents(), X) == ["a.1", "b.1"]
