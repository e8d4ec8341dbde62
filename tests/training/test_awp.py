"""AWP is its formula for every objective, whatever a step is made of, and leaves no trace on the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from awp_models import FIXED, GAMMA, FirstPass, Watched, images, plain, run, sgd
from torch import Tensor, nn

import stocnoise
from stocnoise import NonFiniteError, Step, Trades, stochastic_layers
from stocnoise.attacks import BIM
from stocnoise.training.divergence import kl_divergence
from stocnoise.training.objectives import at, clean, mixed


def two_attacks(step: Step) -> Tensor:
    """As a user may write it: two attacks, a pass each, and a weight in the loss."""
    first = step.adversarial(BIM(eps=0.05, steps=1))
    second = step.adversarial()
    return step.loss(step.logits(first)[0]) + 2 * step.loss(step.logits(second)[0])


def of_images(objective: Any, model: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """The loss of the images that the objective was seen to use."""
    z = [model(part) for part in given]
    if objective is mixed:
        return (F.cross_entropy(z[0], y) + F.cross_entropy(z[1], y)) / 2
    if isinstance(objective, Trades):
        return F.cross_entropy(z[0], y) + 6 * kl_divergence(z[1].float(), z[0].float().log_softmax(1)).mean()
    return F.cross_entropy(z[0], y)


def by_hand(model: nn.Module, loss: Callable[[nn.Module], Tensor], lr: float, gamma: float = GAMMA) -> None:
    """w − lr · ∇L(w + δ), δ = γ‖w‖ g/‖g‖ of each weight of two or more dimensions."""
    parameters = list(model.parameters())
    before = [w.detach().clone() for w in parameters]
    gradients = torch.autograd.grad(loss(model), parameters)
    with torch.no_grad():
        for w, g in zip(parameters, gradients, strict=True):
            if w.dim() > 1:
                w += gamma * w.norm() * g / g.norm()
    gradients = torch.autograd.grad(loss(model), parameters)
    with torch.no_grad():
        for w, start, g in zip(parameters, before, gradients, strict=True):
            w.copy_(start - lr * g)


@pytest.mark.parametrize("objective", [at, clean, mixed, Trades()])
def test_a_step_is_the_formula(objective: Any) -> None:
    """In float64, on the adversarial images that the first pass made and the second one used again."""
    model, expected, watched = plain(), plain(), Watched(objective)
    attack = stocnoise.PGD(eps=0.1, steps=2)
    run(model, images(8, 8), objective=watched, attack=attack)
    (first, second), y = watched.images, tiny.data(8).tensors[1]
    assert len(watched.losses) == 2
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, second, strict=True))
    by_hand(expected, lambda at_w: of_images(objective, at_w, first, y), lr=0.1)
    close = 1e-6 if isinstance(objective, Trades) else 1e-12  # its divergence is in float32
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=close, atol=close)
    moved = watched.weights[1]["0.weight"] - watched.weights[0]["0.weight"]
    torch.testing.assert_close(moved.norm(), GAMMA * watched.weights[0]["0.weight"].norm())
    assert torch.equal(watched.weights[1]["0.bias"], watched.weights[0]["0.bias"])


def test_an_objective_of_ones_own_is_attacked_once_and_its_images_come_in_their_order() -> None:
    seen: list[list[Tensor]] = []

    def noting(step: Step) -> Tensor:
        loss = two_attacks(step)
        seen.append(step._adversarial)
        return loss

    model, expected = plain(), plain()
    run(model, images(8, 8), objective=noting)
    x, y = (part if part.dtype == torch.int64 else part.double() for part in tiny.data(8).tensors)
    weak, strong = BIM(eps=0.05, steps=1)(expected, x, y), FIXED(expected, x, y)
    assert len(seen) == 2
    assert all(torch.equal(a, weak) and torch.equal(b, strong) for a, b in seen)
    by_hand(expected, lambda m: F.cross_entropy(m(weak), y) + 2 * F.cross_entropy(m(strong), y), lr=0.1)
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_attack_runs_once_a_batch() -> None:
    calls = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return FIXED(model, x, y)

    run(plain(), images(20, 4), attack=attack, accumulate=2)
    assert calls == [4] * 5


def test_accumulated_halves_are_the_whole_batch() -> None:
    """The perturbation is that of the whole step's gradient, also of the fewer batches that end an epoch."""
    whole, halves = plain(), plain()
    run(whole, images(20, 8), epochs=2)
    history = run(halves, images(20, 4), epochs=2, accumulate=2)
    for mine, theirs in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    without = plain()
    run(without, images(20, 4), epochs=2, accumulate=2, awp=None)
    assert not torch.allclose(without[0].weight, halves[0].weight, rtol=1e-3)
    assert history[-1].unperturbed == 0


def test_statistics_and_figures_are_of_the_second_pass_alone() -> None:
    model, watched = tiny.student(gamma=0.5), Watched()
    passes: list[Tensor] = []
    model[2].register_forward_pre_hook(lambda layer, x: passes.append(x[0].detach()) if layer.training else None)
    history = run(model, tiny.loader(8), objective=watched)
    assert len(passes) == len(watched.losses) == 2
    assert not torch.equal(passes[0], passes[1])
    expected = 0.5 * passes[1].double().transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(model[2].sigma.double(), expected, rtol=1e-5, atol=1e-6)
    assert {layer.num_batches_tracked.item() for _, layer in stochastic_layers(model)} == {1}
    assert {layer.num_batches_tracked.item() for layer in model if isinstance(layer, nn.BatchNorm2d)} == {1}
    assert history[0].loss == pytest.approx(watched.losses[1], rel=1e-6)
    assert history[0].loss != pytest.approx(watched.losses[0], rel=1e-6)


def test_the_noise_is_drawn_anew_and_sigma_moves_with_each_batch_of_a_group() -> None:
    model = tiny.student(gamma=1.0)
    stocnoise.calibrate(model, [tiny.data(24).tensors[0]] * 8)
    before = int(model[2].num_batches_tracked)
    outputs: list[Tensor] = []
    with torch.no_grad():
        model[0].weight.zero_()  # no δ there: the first noise meets the same input in every pass
        model[0].weight.requires_grad_(False)
    model[1].eval()
    model[2].register_forward_hook(lambda layer, x, y: outputs.append(y.detach()) if layer.training else None)
    run(model, tiny.loader(8, batch_size=4), accumulate=2, gamma=None)
    assert len(outputs) == 4
    assert len({output[:1].sum().item() for output in outputs}) == 4
    assert int(model[2].num_batches_tracked) == before + 2


def test_weights_come_back_bit_for_bit() -> None:
    model = tiny.student()
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    run(model, tiny.loader(), **sgd(0.0))
    assert tiny.same(dict(model.named_parameters()), before)


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("where", ["objective", "backward"])
def test_what_ends_the_second_pass_leaves_the_weights(where: str, error: type[BaseException]) -> None:
    model = tiny.student()
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    calls: list[bool] = []

    def fail(gradient: Tensor) -> None:
        raise error

    def objective(step: Step) -> Tensor:
        calls.append(torch.equal(model[0].weight, before["0.weight"]))
        loss = at(step)
        if len(calls) == 2 and where == "objective":
            raise error
        if len(calls) == 2:
            loss.register_hook(fail)
        return loss

    with pytest.raises(error):
        run(model, tiny.loader(), objective=objective)
    assert calls == [True, False]
    assert tiny.same(dict(model.named_parameters()), before)


def test_a_loss_that_is_not_finite_at_the_moved_weights_is_said_and_the_weights_are_those_before() -> None:
    model = plain()
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    calls: list[int] = []

    def objective(step: Step) -> Tensor:
        calls.append(1)
        return at(step) * (torch.nan if len(calls) == 2 else 1)

    with pytest.raises(NonFiniteError, match="weights are from before the step"):
        run(model, objective=objective)
    assert tiny.same(dict(model.named_parameters()), before)


def test_steps_whose_gradient_is_not_finite_are_taken_without_and_counted() -> None:
    with_awp, without = plain(), plain()
    with pytest.warns(UserWarning, match="of this epoch's steps were taken without AWP"):
        history = run(with_awp, objective=FirstPass(lambda loss: loss * torch.inf, (0, 1, 2)), epochs=2)
    assert [epoch.unperturbed for epoch in history] == [2, 1]
    run(without, epochs=2, awp=None)
    assert not tiny.same(with_awp.state_dict(), without.state_dict())  # the fourth step
    with pytest.warns(UserWarning, match="2 of this epoch's steps"):
        run(again := plain(), objective=FirstPass(lambda loss: loss * torch.nan, (0, 1)))
    run(once := plain(), awp=None)
    assert tiny.same(again.state_dict(), once.state_dict())


def test_a_weight_without_gradient_stays() -> None:
    """Where ‖g‖ is 0 there is no direction; others move."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = plain(), nn.Linear(36, 3, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + 0 * self.idle(x.flatten(1))

    model, watched = Half(), Watched()
    run(model, images(8, 8), objective=watched)
    before, moved = watched.weights
    assert torch.equal(before["idle.weight"], moved["idle.weight"])
    assert not torch.equal(before["used.0.weight"], moved["used.0.weight"])
    assert all(w.isfinite().all() for w in model.parameters())


def test_the_direction_does_not_depend_on_the_scale_of_the_loss() -> None:
    """What fp16 multiplies its loss with, a power of two, changes nothing, bit for bit."""
    scaled, usual = tiny.student(), tiny.student()
    steps = tuple(range(3))
    run(scaled, tiny.loader(), objective=FirstPass(lambda loss: loss * 2.0**16, steps))
    run(usual, tiny.loader(), objective=FirstPass(lambda loss: loss, steps))
    assert tiny.same(scaled.state_dict(), usual.state_dict())
