"""A block with weights that stands in several places: σ for each place, and one set of weights."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import activation_calls, converted, layers, names

X = torch.randn(2, 4, 6, 6)


class Block(nn.Module):
    """Holds weights and buffers itself and in submodules."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.register_buffer("passes", torch.zeros(()))
        self.conv = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.act = act or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return x + self.act(self.bn(self.conv(x))) * self.scale


class ThreePlaces(nn.Module):
    """One block under two names and in a list, and another block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = Block()
        self.two = self.one
        self.many = nn.ModuleList([self.one, Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.many:
            x = block(x)
        return self.two(self.one(x))


SITES = ["one.act", "two.act", "many.0.act", "many.1.act"]


def places(model: nn.Module) -> tuple[nn.Module, ...]:
    return model.one, model.two, model.many[0]


def assert_tied(model: nn.Module) -> None:
    first, *others = places(model)
    for other in others:
        assert other.conv is first.conv and other.bn is first.bn
        assert other.scale is first.scale and other.passes is first.passes


def ready() -> nn.Module:
    student = stocnoise.convert(ThreePlaces(), X, gamma=0.1)
    stocnoise.calibrate(student, [X])
    return student


def test_each_place_has_its_own_sigma_and_all_have_one_set_of_weights() -> None:
    teacher = ThreePlaces()
    student = converted(teacher, X)
    assert set(layers(student)) == set(SITES)
    assert len(layers(student)) == activation_calls(teacher, X)
    assert_tied(student)
    assert len(list(student.parameters())) == len(list(teacher.parameters()))
    assert set(teacher.state_dict()) < set(student.state_dict())
    stocnoise.calibrate(student, [X])
    assert all(layer.num_batches_tracked == 1 for layer in layers(student).values())
    sigmas = [layers(student)[name].sigma for name in SITES[:3]]
    assert not torch.equal(sigmas[0], sigmas[1]) and not torch.equal(sigmas[0], sigmas[2])


def test_training_moves_the_weights_of_all_places_as_it_does_the_teachers() -> None:
    teacher, student = ThreePlaces(), stocnoise.convert(ThreePlaces(), X, gamma=0.0)
    for model in (teacher, student):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
    assert_tied(student)
    for key, value in teacher.state_dict().items():  # weights, running statistics, and counts: a pass counts thrice
        torch.testing.assert_close(student.state_dict()[key], value)
    assert student.one.passes == 9 and student.one.bn.num_batches_tracked == 9


@pytest.mark.parametrize(
    "done",
    [
        lambda student: student.to(torch.float64),
        lambda student: student.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
        lambda student: pickle.loads(pickle.dumps(student)),
        lambda student: (student.load_state_dict(ThreePlaces().state_dict(), assign=True), student)[1],
        lambda student: stocnoise.revert(student),
    ],
    ids=["dtype", "device", "deepcopy", "pickle", "assign", "revert"],
)
def test_weights_stay_tied(done: Callable[[nn.Module], nn.Module]) -> None:
    student = ready()
    after = done(student)
    assert_tied(after)
    with torch.no_grad():
        after.many[0].scale.fill_(0.25)
    assert torch.equal(after.two.scale, after.one.scale) and (after.one.scale == 0.25).all()
    if after is not student:
        assert_tied(student)
        assert not (student.one.scale == 0.25).any()


def test_copies_and_files_keep_every_sigma(tmp_path: Path) -> None:
    student = ready()
    stocnoise.save(student, tmp_path / "s.safetensors")
    buffer = io.BytesIO()
    torch.save(student.state_dict(), buffer)
    buffer.seek(0)
    fresh = stocnoise.convert(ThreePlaces(), X)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    loaded = stocnoise.load(tmp_path / "s.safetensors", ThreePlaces())
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), fresh, loaded):
        assert {n: s.sigma.tolist() for n, s in layers(other).items()} == {
            n: s.sigma.tolist() for n, s in layers(student).items()
        }
        assert_tied(other)


@pytest.mark.parametrize("inplace", [False, True])
def test_revert_puts_the_block_itself_back_into_every_place(inplace: bool) -> None:
    teacher = ThreePlaces()
    block = teacher.one
    student = stocnoise.convert(teacher, X, inplace=inplace)
    back = stocnoise.revert(student, inplace=inplace)
    assert back.one is back.two is back.many[0]
    assert (back.one is block) == inplace
    assert [name for name, _ in back.named_modules()] == [name for name, _ in ThreePlaces().named_modules()]
    assert torch.equal(back.eval()(X), ThreePlaces().eval()(X))
    again = stocnoise.convert(back, X)
    assert set(layers(again)) == set(SITES)


def test_a_hook_runs_for_every_place() -> None:
    teacher = ThreePlaces()
    seen: list[type] = []
    handle = teacher.one.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    student = stocnoise.convert(teacher, X, gamma=0.0, inplace=True)
    seen.clear()
    student(X)
    assert seen == [Block] * 3
    handle.remove()
    student(X)
    assert len(seen) == 3


def test_a_filter_on_one_place_leaves_the_others_without_noise() -> None:
    student = stocnoise.convert(ThreePlaces(), X, include="two.*")
    assert set(layers(student)) == {"two.act"}
    assert_tied(student)
    assert type(student.one.act) is type(student.many[0].act) is nn.ReLU


class OneNameIsNotCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Block()
        self.body = nn.Sequential(self.kept, Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_names_that_are_not_called_stay_names_of_the_one_that_is() -> None:
    student = converted(OneNameIsNotCalled(), X)
    assert student.kept is student.body[0]
    assert names(OneNameIsNotCalled(), X) == ["kept.act", "body.1.act"]
    assert set(layers(student)) == {"kept.act", "body.1.act"}


class Nested(nn.Module):
    """A block that holds a block twice, itself held twice; and parts without activations, which are not told apart."""

    def __init__(self) -> None:
        super().__init__()
        inner = Block(nn.GELU())
        half = nn.Sequential(inner, nn.Conv2d(4, 4, 1), inner)
        self.first = half
        self.norm = nn.BatchNorm2d(4)
        self.same_norm = self.norm
        self.second = half

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.same_norm(self.norm(self.first(x))))


def test_blocks_inside_blocks() -> None:
    student = converted(Nested(), X)
    assert set(layers(student)) == {f"{half}.{part}.act" for half in ("first", "second") for part in (0, 2)}
    assert student.norm is student.same_norm
    assert student.first[1] is student.second[1]
    assert student.first[0].conv is student.second[2].conv
    back = stocnoise.revert(student)
    assert back.first is back.second and back.first[0] is back.first[2]


class Rewritten(nn.Module):
    """Its activations are calls of functions, in a class that is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) + nn.functional.silu(x)


def test_functional_calls_in_several_places() -> None:
    part = Rewritten()
    student = converted(nn.Sequential(part, nn.BatchNorm2d(4), part), X)
    assert set(layers(student)) == {f"{place}.{name}_0" for place in (0, 2) for name in ("relu", "silu")}
    back = stocnoise.revert(student)
    assert back[0] is back[2] and type(back[0]) is Rewritten


class Scaled(nn.Module):
    """Nothing inside, and more than an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x).mul(1.5)


def test_a_part_without_weights_in_several_places() -> None:
    part = Scaled()
    model = nn.Sequential(part, nn.Conv2d(4, 6, 1), part, nn.Conv2d(6, 4, 1), part)
    student = converted(model, X)
    assert [(name, len(layer.sigma)) for name, layer in layers(student).items()] == [
        *(("0.silu_0", 4), ("2.silu_0", 6), ("4.silu_0", 4))
    ]
    back = stocnoise.revert(student)
    assert back[0] is back[2] is back[4] and type(back[0]) is Scaled
    assert list(layers(converted(model, X, exclude="2.*"))) == ["0.silu_0", "4.silu_0"]
    assert list(layers(converted(model, X, exclude="0.*"))) == ["2.silu_0", "4.silu_0"]


class Counting(Block):
    """Does something else at every second call, and keeps count in an attribute."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 2)


class Handing(Block):
    """Hands something from the call in one place to that in another."""

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "kept"):
            x = x + self.kept
            del self.kept
        else:
            self.kept = x
        return super().forward(x)


@pytest.mark.parametrize("kind", [Counting, Handing])
def test_a_block_that_keeps_state_in_attributes_is_not_taken_apart(kind: type[Block]) -> None:
    block = kind()
    student = stocnoise.convert(nn.Sequential(block, nn.Conv2d(4, 4, 1), block), X, check=True)
    assert student[0] is student[2]
    assert set(layers(student)) == {"0.act"}


def test_compiled_and_exported() -> None:
    student = ready().eval()
    stocnoise.set_gamma(student, 0.0)
    compiled = torch.compile(copy.deepcopy(student), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), student(X))
    assert torch.equal(torch.export.export(student, (X,)).module()(X), student(X))
