"""Which dimension σ runs along: told by what feeds the activation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, sites


class Permuted(nn.Module):
    """A ConvNeXt block: NCHW in, NHWC between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.fc1 = nn.Linear(6, 6)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + F.relu(self.fc2(self.act(self.fc1(y))).permute(0, 3, 1, 2))


class Tokens(nn.Module):
    """A patch embedding: convolution, flattened, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, stride=2)
        self.mlp = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.patch(x)).flatten(2)
        tokens = F.silu(tokens).transpose(1, 2)
        tokens = self.mlp(F.hardswish(tokens))
        return F.relu(tokens.mean(1))


class Windows(nn.Module):
    """Swin's windows: view, permute, view."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = self.fc(x).view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        return F.gelu(x)


class TokenMixing(nn.Module):
    """MLP-Mixer: a linear layer over the tokens, whose output is the channel of its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 11)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.fc(x.transpose(1, 2))).transpose(1, 2)


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([self.a(x), self.b(x)], 1))


class SquareAmbiguous(nn.Module):
    """Every size is the same; only the origin tells."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) + F.silu(self.fc(x)) + F.gelu(self.conv(x).permute(0, 2, 3, 1))


class ScaledAndSliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) * 2 + 1
        a, b = y.chunk(2, dim=-1)
        return F.silu(a) * b


torch.manual_seed(1)  # with other weights than these a ReLU may pass nothing of so small an input
CASES: list[tuple[nn.Module, Any, list[tuple[str, int, int]]]] = [
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (2, 5), [("relu", 7, 1)]),
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (2, 3, 5), [("relu", 7, -1)]),
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (2, 3, 4, 5), [("relu", 7, -1)]),
    (nn.Sequential(nn.Conv1d(5, 7, 1), nn.ReLU()), (2, 5, 3), [("relu", 7, 1)]),
    (nn.Sequential(nn.Conv3d(5, 7, 1), nn.ReLU()), (2, 5, 3, 3, 3), [("relu", 7, 1)]),
    (nn.Sequential(nn.ConvTranspose2d(5, 7, 2), nn.BatchNorm2d(7), nn.ReLU()), (2, 5, 3, 3), [("relu", 7, 1)]),
    (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ReLU()), (2, 3, 5, 5), [("relu", 100, 1)]),
    (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU()),
        (2, 3, 5, 5),
        [("relu", 4, 1)],
    ),
    (Permuted(), (2, 6, 6, 6), [("gelu", 6, -1), ("relu", 6, 1)]),
    (
        Tokens(),
        (2, 3, 8, 8),
        [("relu", 6, 1), ("silu", 6, 1), ("hardswish", 6, -1), ("gelu", 9, -1), ("relu", 6, 1)],
    ),
    (Windows(), (2, 4, 4, 5), [("gelu", 5, -1)]),
    (TokenMixing(), (2, 7, 5), [("gelu", 11, -1)]),
    (Concatenated(), (2, 3, 4, 4), [("relu", 9, 1)]),
    (SquareAmbiguous(), (6, 6, 6, 6), [("relu", 6, 1), ("silu", 6, -1), ("gelu", 6, -1)]),
    (ScaledAndSliced(), (2, 8, 8), [("silu", 4, -1)]),
]


@pytest.mark.parametrize(("model", "shape", "expected"), CASES)
def test_the_channel_is_where_it_was_computed(
    model: nn.Module, shape: tuple[int, ...], expected: list[tuple[str, int, int]]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    assert [(s.activation, s.channels, s.channel_dim) for s in sites(model, x)] == expected
    converted(model, x)


def test_a_channels_last_tensor_is_still_nchw() -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU()).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    (site,) = sites(model, x)
    assert (site.channels, site.channel_dim) == (7, 1)
    student = stocnoise.convert(model, x)
    assert student(x).is_contiguous(memory_format=torch.channels_last)


def test_another_size_of_image_runs() -> None:
    student = stocnoise.convert(Permuted(), torch.randn(2, 6, 6, 6))
    student(torch.randn(3, 6, 9, 4))


def test_an_activation_without_channels_is_left_alone():
    """A squeeze to C // 24 channels of a narrow model leaves none."""

    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.gelu = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.GELU()

        def forward(self, x):
            x = self.relu(self.conv(x))
            return x + self.gelu(x[:, :0]).sum()

    student = stocnoise.convert(Squeezed(), torch.rand(2, 3, 4, 4), check=True)
    assert [name for name, _ in stocnoise.stochastic_layers(student)] == ["relu"]
    assert "no channels" in str(stocnoise.summary(student))
