"""Mixtures of experts: what runs depends on values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import layers


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.act(self.a(x))))


class Mixture(nn.Module):
    """Each row goes to the expert that its first number says."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([Expert() for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        where = x[:, 0].long()
        for number, expert in enumerate(self.experts):
            rows = where == number
            if rows.any():
                y[rows] = expert(x[rows])
        return y


class Fused(nn.Module):
    """One activation in a loop over the experts that are hit."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.w, self.act, self.how = nn.Parameter(torch.randn(4, 4, 4)), nn.SiLU(), how

    def part(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        where = x[:, 0].long()
        hit = where.unique()
        for number in hit.tolist() if self.how == "list" else hit:
            rows = (where == number).nonzero()[:, 0]
            h = x[rows] @ self.w[number]
            y[rows] = self.part(h) if self.how == "method" else self.act(h)
        return y


class Skips(Fused):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number in range(4):
            rows = torch.nonzero(x[:, 0].long() == number)[:, 0]
            if rows.numel() == 0:
                continue
            y[rows] = self.act(x[rows] @ self.w[number])
        return y


def rows(*experts: int) -> Tensor:
    x = torch.rand(2 * len(experts), 4)
    x[:, 0] = torch.tensor(experts * 2).float()
    return x


def test_experts_that_the_example_does_not_reach_are_converted_like_the_others() -> None:
    x = rows(0, 2)
    student = stocnoise.convert(Mixture(), x, gamma=0.1)
    wanted = {f"experts.{number}.{name}" for number in range(4) for name in ("act", "relu_0")}
    assert set(layers(student)) == wanted
    assert "experts.1.act" in str(stocnoise.summary(student)) and "like experts.0" in str(stocnoise.summary(student))
    student.train()
    student(rows(0, 1, 2, 3))
    assert all(layer.sigma.sum() > 0 for layer in layers(student).values())
    back = stocnoise.revert(student)
    assert not layers(back) and type(back.experts[1]) is Expert


def test_an_expert_can_be_excluded() -> None:
    student = stocnoise.convert(Mixture(), rows(0, 2), exclude="experts.1.*")
    assert not [path for path in layers(student) if path.startswith("experts.1.")]
    assert [path for path in layers(student) if path.startswith("experts.3.")]


@pytest.mark.parametrize("model", [Fused("list"), Fused("tensor"), Fused("method"), Skips("")])
def test_a_loop_over_the_experts_that_are_hit_is_one_place(model: nn.Module) -> None:
    student = stocnoise.convert(model, rows(0, 2), gamma=0.1)
    assert len(layers(student)) == 1
    for some in ((0,), (0, 1, 2, 3), (3, 1)):
        student.train()(rows(*some))
    ((_, layer),) = layers(student).items()
    assert layer.sigma.sum() > 0
    with stocnoise.deterministic(student):
        x = rows(0, 1, 2, 3)
        assert torch.equal(student.eval()(x), model.eval()(x))


def test_a_loop_that_no_value_decides_keeps_a_place_for_each_turn() -> None:
    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            assert bool(x.isfinite().all())
            for part in self.parts:
                x = F.relu(part(x))
            return x

    assert len(layers(stocnoise.convert(Turns(), torch.rand(2, 4)))) == 3


class Routed(nn.Module):
    """Two parts that have nothing in common; the sign of the first number says which."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 6), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x)) if x[0, 0] > 0 else F.relu(self.b(x))[:, :4]


def test_several_examples_reach_what_one_does_not(tmp_path: Path) -> None:
    x = torch.rand(4, 4) + 0.1
    assert len(stocnoise.find_sites(Routed(), x)) == 1
    student = stocnoise.convert(Routed(), x, more_inputs=[-x], gamma=0.1, check=True)
    assert set(layers(student)) == {"act", "relu_0"}
    for batch in (x, -x):
        student.train()(batch)
    assert all(layer.sigma.sum() > 0 for layer in layers(student).values())
    assert len(stocnoise.find_sites(Routed(), x, more_inputs=[-x])) == 2
    stocnoise.save(student, tmp_path / "s.safetensors")
    loaded = stocnoise.load(tmp_path / "s.safetensors", Routed(), x, more_inputs=[-x])
    assert set(layers(loaded)) == {"act", "relu_0"}
