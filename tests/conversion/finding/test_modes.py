"""Models that take other ways in training than in evaluation, or other ways from call to call."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers, names

X = torch.randn(2, 4, 6, 6)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()


class OnlyInTraining(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.training:
            x = F.silu(self.conv(x))
        return F.gelu(self.conv(x))


class OnlyInEval(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        if not self.training:
            x = self.act(self.conv(x))
        return self.act(self.conv(x) - 0.1)


class Auxiliary(Base):
    """Another number of outputs in training, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.act(self.conv(x))
        return (x, self.aux(x)) if self.training else x


class FewerInEval(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3 if self.training else 1):
            x = F.relu(self.conv(x))
        return x


class MoreInEval(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1 if self.training else 3):
            x = self._step(x)
        return x

    def _step(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class OtherActivation(Base):
    """One place in the source, but another function in eval."""

    def forward(self, x: Tensor) -> Tensor:
        act = F.relu if self.training else F.silu
        return act(self.conv(x))


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.training else F.hardswish(x)


class OtherModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = Swish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class ByValue(Base):
    """Fake tensors have no values: it has to be run with real ones."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return F.relu(y - 0.1) if y.sum().item() > 0 else F.relu(y + 0.1)


class Steps(Base):
    def forward(self, x: Tensor, steps: int = 2) -> Tensor:
        for _ in range(steps):
            x = F.relu(self.conv(x))
        return x


class HelperSteps(Steps):
    def forward(self, x: Tensor, steps: int = 2) -> Tensor:
        for _ in range(steps):
            x = self._helper(x)
        return x

    def _helper(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Stochastic(Base):
    """Drops whole calls at random, as stochastic depth can: the noise must not shift to other places."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if torch.rand(()) < 2:
            x = F.relu(self.conv(x))
        return F.silu(x)


@pytest.mark.parametrize(
    ("model", "activations"),
    [
        (OnlyInTraining, ["relu", "silu", "gelu"]),
        (Auxiliary, ["act", "aux.1"]),
        (FewerInEval, ["relu"] * 3),
        (MoreInEval, ["relu"] * 3),
        (ByValue, ["relu"] * 2),
        (OtherActivation, ["relu"]),
        (OtherModule, ["act"]),
        (Stochastic, ["relu", "silu"]),
    ],
)
def test_each_way_is_converted(model: type[nn.Module], activations: list[str]) -> None:
    assert names(model(), X) == activations
    converted(model(), X)


def test_a_branch_of_one_mode_shifts_nothing_in_the_other() -> None:
    student = stocnoise.convert(OnlyInEval(), X)
    assert len(layers(student)) == 3
    student.train()(X)
    moved = {name for name, layer in layers(student).items() if layer.num_batches_tracked > 0}
    student.eval()
    ran: set[str] = set()
    for name, layer in layers(student).items():
        layer.register_forward_hook(lambda *_, name=name: ran.add(name))
    student(X)
    assert len(moved) == 2 and moved < ran == set(layers(student))


@pytest.mark.parametrize("model", [Steps, HelperSteps])
def test_a_call_more_than_was_probed_is_an_error(model: type[nn.Module]) -> None:
    student = stocnoise.convert(model(), X)
    student(X, steps=1)
    with pytest.raises(stocnoise.ConversionError, match="more often than when it was converted"):
        student(X, steps=3)
    student(X)


def test_the_example_input_decides_how_often() -> None:
    student = stocnoise.convert(Steps(), {"x": X, "steps": 5})
    assert len(layers(student)) == 5
    student(X, steps=5)


def test_the_random_state_stays() -> None:
    teacher = ByValue()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    stocnoise.convert(teacher, X, check=True)
    assert torch.equal(torch.rand(3), expected)


def test_buffers_of_the_teacher_do_not_move() -> None:
    teacher = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), ByValue())
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = stocnoise.convert(teacher, X, check=True)
    for key, value in before.items():
        assert torch.equal(teacher.state_dict()[key], value)
        assert torch.equal(student.state_dict()[key], value)
