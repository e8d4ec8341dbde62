"""In-place activations: what they overwrite may be read again, and then removing the write would change the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers

X = torch.randn(2, 4, 6, 6)


class Residual(nn.Module):
    """`out + y` reads y after the in-place ReLU has overwritten it (pytorch#44194)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.relu(y) + y


class SharedResidual(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.relu(y) + y
        return self.relu(self.conv(z))


class Statement(Residual):
    """The result of the call is not used at all."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        F.relu(y, inplace=True)
        return y * 2


class ModuleStatement(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.relu(y)
        return y * 2


class Underscore(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        torch.relu_(y)
        return y + F.relu_(self.conv(y))


class MethodUnderscore(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return y


class Slope(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        F.leaky_relu_(y, 0.3)
        z = y * 1
        return y - F.leaky_relu(z, 0.1, True)


class View(Residual):
    """The overwritten tensor is a view: the base is read later."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        half = y[:, :2]
        self.relu(half)
        return y


class Slice(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, ::2, 1:].relu_()
        return y


class Flat(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.relu(y.flatten(1))
        return y.exp()


class OfInput(Residual):
    """The input of the block is overwritten, as in pre-activation networks."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        return self.conv(self.relu(x)) + x


class Kept(Residual):
    """The overwritten tensor leaves the model."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, self.relu(y) * 2


class Nobody(Residual):
    """Nothing reads the overwritten tensor again."""

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)) * 2


class Hidden(Residual):
    """The overwritten tensor is kept in a list."""

    def forward(self, x: Tensor) -> Tensor:
        found = [self.conv(x)]
        found.append(self.relu(found[0]))
        return torch.stack(found).sum(0)


class OutArgument(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = torch.mul(self.relu(y), 1)
        return torch.cat(tensors=[z, y], dim=1)


class Where(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.relu(y) * 3
        return torch.clamp(input=torch.where(z > 1, input=z, other=y), max=2)


class Unfused(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = F.elu(y, inplace=True)
        return z * 2


class UnfusedReadAgain(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = F.elu(y, inplace=True)
        return z + y


def thin_(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


class ThinReadAgain(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = thin_(y)
        return z * 2 + y


class UnfusedModule(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ELU(inplace=True)


@pytest.mark.parametrize(
    "model",
    [
        Residual,
        SharedResidual,
        Statement,
        ModuleStatement,
        Underscore,
        MethodUnderscore,
        Slope,
        View,
        Slice,
        Flat,
        OfInput,
        Kept,
        Nobody,
        Hidden,
        OutArgument,
        Where,
        Unfused,
        UnfusedReadAgain,
        UnfusedModule,
        ThinReadAgain,
    ],
)
def test_the_function_stays_the_same(model: type[nn.Module]) -> None:
    converted(model(), X)


def test_only_a_write_that_is_seen_is_made() -> None:
    assert [layer.inplace for layer in layers(stocnoise.convert(Residual(), X)).values()] == [True]
    assert [layer.inplace for layer in layers(stocnoise.convert(Nobody(), X)).values()] == [False]


def test_the_overwritten_tensor_is_noisy_too() -> None:
    student = stocnoise.convert(Kept(), X, gamma=1.0).train()
    student(X)
    y, z = student(X)
    assert torch.equal(y * 2, z)
