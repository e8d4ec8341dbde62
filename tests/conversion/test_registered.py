"""Activations that call none of torch's: registered by hand or known by their class, with weights or without."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from stocnoise.conversion.finding import catalog
from tests.conversion_checks import converted, layers, sites

X = torch.randn(2, 3, 8, 8)


@stocnoise.register_activation
class Snake(nn.Module):
    """x + sin²(ax) / a (Ziyin et al. 2020): an activation that calls none of torch's, with a weight of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 1.5, channels).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


@stocnoise.register_activation
class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


@stocnoise.register_activation
class Mixture(nn.Module):
    """Has activations inside, which are no sites: the whole is one. `noise` is a name that it uses itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.ReLU()
        self.noise = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, weight: float = 1.0) -> Tensor:
        return weight * self.inside(x) + self.noise * F.silu(x)


def test_a_registered_activation_is_a_site() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Sine())
    (site,) = sites(model, X)
    assert (site.name, site.kind, site.activation, site.channels) == ("1", "module", "Sine", 4)
    student = stocnoise.convert(model, X, gamma=0.5, check=True)
    stocnoise.calibrate(student, [X], batches=1)
    assert not torch.equal(student(X), student(X))
    with stocnoise.deterministic(student):
        assert torch.equal(student(X), model(X))


def test_one_with_parameters_stays_where_it_is_and_is_entered_through_a_layer() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), Snake(4))
    (site,) = sites(teacher, X)
    assert (site.name, site.kind, site.activation, site.channels) == ("1", "module", "Snake", 4)
    student = converted(teacher, X)
    assert isinstance(student[1], Snake)
    assert set(layers(student)) == {"1.noise"}
    assert set(student.state_dict()) - set(teacher.state_dict()) == {
        f"1.noise.{buffer}" for buffer in ("sigma", "gamma", "num_batches_tracked")
    }
    student.load_state_dict(teacher.state_dict(), strict=True)
    back = stocnoise.revert(student)
    assert type(back[1]) is Snake and set(back.state_dict()) == set(teacher.state_dict())


def test_the_noise_is_that_of_the_input() -> None:
    """h'(x) = h(x + δ): what the module gets is x + δ, and σ is that of x."""
    student = stocnoise.convert(nn.Sequential(nn.Conv2d(3, 4, 3), Snake(4)), X, gamma=0.25, alpha=1.0)
    stocnoise.calibrate(student, [X])
    x = student[0](X)
    torch.testing.assert_close(student[1].noise.sigma, x.std((0, 2, 3)))
    seen: list[Tensor] = []
    student[1].noise.register_forward_hook(lambda layer, args, output: seen.append(output))
    y = student[1](x)
    torch.testing.assert_close(y, Snake.forward(student[1], seen[0]))
    noise = (seen[0] - x).detach()
    assert 0.4 < (noise / student[1].noise.sigma.view(-1, 1, 1)).std() < 0.6


def test_copies_and_files(tmp_path: Path) -> None:
    def teacher() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), Snake(4), Mixture())

    student = stocnoise.convert(teacher(), X, gamma=0.1)
    stocnoise.calibrate(student, [X])
    stocnoise.save(student, tmp_path / "s.safetensors")
    loaded = stocnoise.load(tmp_path / "s.safetensors", teacher())
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), loaded):
        assert torch.equal(_draw(other), _draw(student))


def test_several_with_modules_inside() -> None:
    student = converted(nn.Sequential(nn.Conv2d(3, 4, 3), Mixture(), nn.ReLU()), X)
    assert set(layers(student)) == {"1.noise_", "2"}
    assert not [item for item in stocnoise.summary(student).left if item.name.startswith("1")]


class Twice(nn.Module):
    """Calls one activation with weights twice, the second time with a further argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = Mixture()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(x)), weight=0.5)


def test_one_with_parameters_called_twice() -> None:
    student = converted(Twice(), X)
    assert set(layers(student)) == {"act_0", "act_1"}
    assert type(student.act) is Mixture


def test_one_with_parameters_in_two_places() -> None:
    snake = Snake(3)
    student = converted(nn.Sequential(snake, nn.Conv2d(3, 3, 1), snake), X)
    assert set(layers(student)) == {"0.noise", "2.noise"}
    assert student[0].a is student[2].a
    back = stocnoise.revert(student)
    assert back[0] is back[2] and type(back[0]) is Snake


def test_the_root_itself() -> None:
    teacher = Snake(3)
    student = stocnoise.convert(teacher, X, inplace=True, check=True)
    assert student is teacher and set(layers(student)) == {"noise"}
    assert type(stocnoise.revert(student, inplace=True)) is Snake


def test_compiled_and_exported() -> None:
    student = stocnoise.convert(nn.Sequential(nn.Conv2d(3, 4, 3), Snake(4)), X, gamma=0.0)
    compiled = torch.compile(copy.deepcopy(student), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), student(X))
    student.eval()
    torch.testing.assert_close(torch.export.export(student, (X,)).module()(X), student(X))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers ends with it."""
    monkeypatch.setattr(catalog, "_registered", dict(catalog._registered))


class Gaussian(nn.Module):
    """Bounded, so a gate by its values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-x * x)


def test_a_declaration_overrules_what_the_values_say(registry: None) -> None:
    model = nn.Sequential(nn.Linear(3, 4), Gaussian(), nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(8, 3)
    student = stocnoise.convert(model, x)
    assert set(layers(student)) == {"3"}
    assert [(item.name, item.activation) for item in stocnoise.summary(student).left] == [("1", "Gaussian")]
    stocnoise.register_activation(Gaussian)
    assert set(layers(converted(model, x))) == {"1", "3"}
    stocnoise.register_gate(Gaussian)
    assert set(layers(stocnoise.convert(model, x))) == {"3"}
    (left,) = stocnoise.summary(stocnoise.convert(model, x)).left
    assert left.reason == "registered as a gate"


class Bounded(nn.Module):
    """tanh in three spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.b(self.act(self.a(x)))).tanh()


def test_a_function_of_torch_may_be_declared(registry: None) -> None:
    x = torch.randn(8, 3)
    with pytest.raises(stocnoise.NothingConvertedError, match="register_activation"):
        stocnoise.convert(Bounded(), x)
    assert stocnoise.register_activation(torch.tanh) is torch.tanh
    assert set(layers(converted(Bounded(), x))) == {"act", "tanh_0", "tanh_1"}
    stocnoise.register_gate(torch.relu)
    assert set(layers(converted(nn.Sequential(Bounded(), nn.ReLU()), x))) == {"0.act", "0.tanh_0", "0.tanh_1"}


def test_only_classes_and_functions_of_torch_can_be_declared() -> None:
    for declare in (stocnoise.register_activation, stocnoise.register_gate):
        for thing in (nn.ReLU(), "relu", lambda x: x, Tensor, 3):
            with pytest.raises(TypeError, match=r"torch\.nn\.Module.*function of torch"):
                declare(thing)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["B0", "B1", "B2", "S0", "S0a", "S1", "S1a", "S2", "S2a", "Tlu", "Act"])
@pytest.mark.parametrize("apply_act", [True, False])
def test_normalisations_that_are_activations(name: str, apply_act: bool) -> None:
    """timm's: with `apply_act=False` they are normalisations and no sites."""
    from timm.layers import evo_norm, filter_response_norm

    evolved = getattr(evo_norm, f"EvoNorm2d{name}", None)
    cls = evolved or getattr(filter_response_norm, f"FilterResponseNorm{name}2d")
    groups = {"groups": 4} if name.startswith("S") else {}
    act = {"act_layer": nn.SiLU} if name.startswith(("S1", "S2", "Act")) else {}
    teacher = nn.Sequential(nn.Conv2d(3, 8, 1), cls(8, apply_act=apply_act, **groups, **act))
    if not apply_act:
        assert sites(teacher, X) == []
        return
    student = converted(teacher, X)
    assert [layer.num_channels for layer in layers(student).values()] == [8]


def _draw(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(X)
