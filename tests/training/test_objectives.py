"""Each objective is its formula, σ moves once a step, and the attack leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import Step, Trades, stochastic_layers
from stocnoise.attacks import PGD
from stocnoise.tasks import Task, as_task
from stocnoise.training.divergence import kl_divergence
from stocnoise.training.objectives import at, clean, make_objective, mixed
from stocnoise.training.step import TaskLoss


def make_step(model: nn.Module, **settings: Any) -> Step:
    x, y = tiny.data(8).tensors
    return Step(model, x, y, **({"attack": PGD(eps=0.1, steps=2)} | settings))


class Recorder(nn.Module):
    """A linear classifier that remembers what it was shown in training mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(36, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("choice", ["clean", "at", "mixed", "trades"])
def test_formulas(choice: str) -> None:
    model = Recorder()
    step = make_step(model)
    loss = make_objective(choice)(step)
    (shown,) = model.seen
    n = len(step.x)
    with torch.no_grad():
        z = model.linear(shown.flatten(1)).double()
    if choice in ("clean", "at"):
        expected = F.cross_entropy(z, step.y)
    else:
        cleanly, attacked = z[:n], z[n:]
        assert torch.equal(shown[:n], step.x)
        if choice == "mixed":
            expected = (F.cross_entropy(cleanly, step.y) + F.cross_entropy(attacked, step.y)) / 2
        else:
            p, q = cleanly.softmax(1), attacked.softmax(1)
            expected = F.cross_entropy(cleanly, step.y) + 6 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    if choice == "clean":
        assert torch.equal(shown, step.x)
    else:
        assert 0.05 < (shown[-n:] - step.x).abs().max() <= 0.1 + 1e-6


def test_trades_attacks_the_divergence_from_one_draw() -> None:
    model = tiny.student(gamma=1.0)
    stocnoise.calibrate(model, [tiny.data(24).tensors[0]] * 8)
    targets: list[Tensor] = []

    def spy(logits: Tensor, target: Tensor) -> Tensor:
        targets.append(target)
        return kl_divergence(logits, target)

    step = make_step(model.train(), attack=PGD(eps=0.1, steps=3))
    adversarial = step.adversarial

    def watched(attack: Any = None, target: Tensor | None = None) -> Tensor:
        assert attack.loss is kl_divergence
        assert target is not None
        return adversarial(stocnoise.PGD(eps=0.1, steps=3, loss=spy), target)

    step.adversarial = watched  # type: ignore[method-assign]
    Trades()(step)
    assert len(targets) == 3
    assert all(torch.equal(target, targets[0]) for target in targets)
    torch.testing.assert_close(targets[0].exp().sum(1), torch.ones(8))


def test_trades_needs_a_random_start() -> None:
    with pytest.raises(ValueError, match="random_start=True"):
        Trades()(make_step(Recorder(), attack=stocnoise.BIM(eps=0.1)))


class Column(nn.Module):
    """A linear model of one logit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(36, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_trades_between_the_two_classes_of_one_logit() -> None:
    """L + β (p log(p/q) + (1−p) log((1−p)/(1−q))), by hand in float64."""
    x = tiny.data(8).tensors[0].double()
    y = torch.tensor([0.0, 1.0] * 4, dtype=torch.float64)
    model, task = Column(), as_task("binary")
    step = Step(model, x, y, PGD(eps=0.1, steps=3, task=task), criterion=TaskLoss(task), task=task)
    loss = Trades(beta=2.0)(step)
    assert torch.equal(step.images[0], x)
    p, q = (torch.sigmoid(model(images)[:, 0]) for images in step.images)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean() + 2 * divergence.mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    near = torch.sigmoid(model(x + 0.01 * torch.randn_like(x))[:, 0])
    assert divergence.mean() > 10 * (p * (p / near).log() + (1 - p) * ((1 - p) / (1 - near)).log()).mean()


def test_trades_refuses_a_task_without_classes() -> None:
    task = Task(loss=lambda o, t: (o - t).flatten(1).mean(1), wrong=lambda o, t: o[:, 0] > t)
    with pytest.raises(ValueError, match=r'"trades" needs a task with classes.*custom.*use "at"'):
        Trades()(make_step(Column(), task=task))


@pytest.mark.parametrize("gap", [50.0, 104.0, 110.0, 1000.0])
def test_trades_has_gradients_where_a_probability_underflows(gap: float) -> None:
    """Those of a loss in float64, in which p of the far classes is e^−gap and counts for nothing."""
    model = Recorder()
    with torch.no_grad():
        model.linear.bias.copy_(torch.tensor([gap, 0.0, 0.0]))
    step = make_step(model)
    step.y = torch.zeros_like(step.y)
    Trades()(step).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() < 1e-6


def test_a_targeted_attack_needs_a_target() -> None:
    step = make_step(Recorder(), attack=PGD(eps=0.1, targeted=True))
    with pytest.raises(ValueError, match="give a target"):
        step.adversarial()
    wanted = (step.y + 1) % 3
    moved = step.adversarial(target=wanted)
    own = F.one_hot(wanted, 3).bool()
    with torch.no_grad():
        assert (step.model(moved)[own] > step.model(step.x)[own]).all()


# The first attack meets σ = 0, as in Algorithm 1; `finetune` gives no notice of that.
starts_at_zero = pytest.mark.filterwarnings("ignore::stocnoise.UncalibratedWarning")


def two_passes(step: Step) -> Tensor:
    (first,) = step.logits(step.x)
    (second,) = step.logits(step.adversarial())
    return step.loss(first) + step.loss(second)


@starts_at_zero
@pytest.mark.parametrize("objective", [at, mixed, Trades(), clean, two_passes])
def test_sigma_moves_once_a_step_by_the_first_pass(objective: Callable[[Step], Tensor]) -> None:
    model = tiny.student().train()
    seen: list[Tensor] = []
    model[2].register_forward_pre_hook(lambda layer, x: seen.append(x[0].detach()) if layer.training else None)
    objective(make_step(model))
    expected = 0.5 * seen[0].double().transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(model[2].sigma.double(), expected, rtol=1e-5, atol=1e-6)
    assert {layer.num_batches_tracked.item() for _, layer in stochastic_layers(model)} == {1}
    assert not any(layer.sigma_frozen for _, layer in stochastic_layers(model))


@starts_at_zero
def test_attack_leaves_the_model_as_found() -> None:
    model = tiny.student().train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    make_step(model).adversarial()
    assert tiny.same(model.state_dict(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not model[3].weight.requires_grad


def test_attack_target_may_be_the_prediction() -> None:
    model = Recorder().eval()
    with torch.no_grad():
        predicted = model(tiny.data(8).tensors[0]).argmax(1)
    wrong = (predicted + 1) % 3  # labels the model never gives
    torch.manual_seed(3)
    by_prediction = Step(model, tiny.data(8).tensors[0], wrong, PGD(eps=0.1), attack_target="prediction").adversarial()
    torch.manual_seed(3)
    expected = PGD(eps=0.1)(model, tiny.data(8).tensors[0], predicted)
    torch.testing.assert_close(by_prediction, expected)


def test_accuracy_is_counted_by_kind() -> None:
    model = Recorder()
    step = make_step(model)
    on_clean, on_adversarial = step.logits(step.x, step.adversarial())
    assert step.correct["clean"] == ((on_clean.argmax(1) == step.y).sum(), 8)
    assert step.correct["adversarial"] == ((on_adversarial.argmax(1) == step.y).sum(), 8)


def test_unknown_objective() -> None:
    with pytest.raises(ValueError, match="at, trades, mixed, clean"):
        make_objective("pgd")
