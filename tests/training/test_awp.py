"""AWP is its formula for every objective, whatever a step is made of, and leaves no trace on the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from process_group import Interrupt
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import AWP, CheckpointError, NonFiniteError, Step, Trades, stochastic_layers
from stocnoise.attacks import BIM
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.divergence import kl_divergence
from stocnoise.training.objectives import at, clean, mixed

GAMMA = 0.1
FIXED = BIM(eps=0.1, steps=2)


def plain(seed: int = 0) -> nn.Sequential:
    """Without noise and BatchNorm, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()


def images(n: int, batch_size: int) -> DataLoader[Any]:
    x, y = tiny.data(n).tensors
    return DataLoader(TensorDataset(x.double(), y), batch_size)


def sgd(lr: float) -> dict[str, Any]:
    """Plain steps of one length."""
    return {
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=lr),
        "weight_decay": 0.0,
        "scheduler": lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }


def run(model: nn.Module, loader: Any = None, **settings: Any) -> stocnoise.History:
    given: dict[str, Any] = {"epochs": 1, "attack": FIXED, "awp": AWP(GAMMA)} | sgd(0.1)
    return tiny.finetune(model, images(16, 8) if loader is None else loader, **given | settings)


class Watched:
    """An objective that notes the images of each pass, the loss, and the weights that it was taken at."""

    def __init__(self, objective: Callable[[Step], Tensor] = at) -> None:
        self.objective = objective
        self.images: list[tuple[Tensor, ...]] = []
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, step: Step) -> Tensor:
        loss = self.objective(step)
        self.images.append(step.images)
        self.losses.append(loss.item())
        self.weights.append({name: w.detach().clone() for name, w in step.model.named_parameters()})
        return loss


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


class FirstPass:
    """at, but for the first pass of some steps, of which it makes something else."""

    def __init__(self, change: Callable[[Tensor], Tensor], steps: tuple[int, ...]) -> None:
        self.change = change
        self.steps = steps
        self.calls = 0

    def __call__(self, step: Step) -> Tensor:
        number, second = divmod(self.calls, 2)
        self.calls += 1
        return self.change(at(step)) if not second and number in self.steps else at(step)


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


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # which Accelerate's scaled steps do
@pytest.mark.parametrize("overflow", [False, True])
def test_loss_scaling(overflow: bool) -> None:
    """With the scaler that fp16 has, here on a CPU: an overflow in the first pass leaves out δ, without a warning."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model, usual = plain(), plain()
    try:
        objective = FirstPass(lambda loss: loss * (torch.inf if overflow else 1), (0, 1))
        history = run(model, objective=objective, accelerator=accelerator)
    finally:
        AcceleratorState._reset_state()
    assert history[0].unperturbed == (2 if overflow else 0)
    run(usual, awp=None if overflow else AWP(GAMMA))
    for mine, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_under_bf16_weights_move_by_gamma() -> None:
    model, watched = tiny.student(), Watched()
    run(model, tiny.loader(8), objective=watched, precision="bf16")
    for name in ("0.weight", "3.weight", "7.weight"):
        before, moved = (weights[name] for weights in watched.weights)
        torch.testing.assert_close((moved - before).norm(), GAMMA * before.norm(), rtol=1e-4, atol=0)
    for name in ("1.weight", "1.bias", "0.bias"):  # BatchNorm's, and biases
        assert torch.equal(*(weights[name] for weights in watched.weights))


def test_warmup_comes_before() -> None:
    watched = Watched()
    with_awp, without = tiny.student(), tiny.student()
    run(with_awp, tiny.loader(), epochs=3, awp=AWP(GAMMA, warmup=2), objective=watched)
    assert len(watched.losses) == 3 + 3 + 6
    for epochs, same in ((2, True), (3, False)):
        model = tiny.student()
        run(model, tiny.loader(), epochs=epochs, awp=AWP(GAMMA, warmup=2), gamma=None)
        run(without := tiny.student(), tiny.loader(), epochs=epochs, awp=None, gamma=None)
        assert tiny.same(model.state_dict(), without.state_dict()) == same


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"precision": "bf16"}, {"objective": "trades"}], ids=str)
def test_it_resumes_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    def train(folder: str, step: int | None) -> tuple[nn.Module, stocnoise.History]:
        model = tiny.student()
        history = tiny.finetune(
            model,
            tiny.loader(batch_size=4),
            attack=stocnoise.PGD(eps=0.1, steps=2),
            awp=AWP(GAMMA),
            checkpoint_dir=tmp_path / folder,
            checkpoint_every=1,
            resume=True,
            callbacks=[Interrupt(step)],
            **settings,
        )
        return model, history

    whole, history = train("whole", None)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", 5)
    resumed, later = train("stopped", None)
    assert tiny.same(whole.state_dict(), resumed.state_dict())
    assert [epoch.loss for epoch in history] == [epoch.loss for epoch in later]


def test_the_count_of_steps_without_resumes(tmp_path: Path) -> None:
    def train(step: int | None, steps: tuple[int, ...]) -> stocnoise.History:
        return run(
            plain(),
            objective=FirstPass(lambda loss: loss * torch.inf, steps),
            checkpoint_dir=tmp_path,
            checkpoint_every=1,
            resume=True,
            callbacks=[Interrupt(step)],
        )

    with pytest.raises(KeyboardInterrupt):
        train(2, (0,))
    with pytest.warns(UserWarning, match="1 of this epoch's steps"):
        assert train(None, ())[0].unperturbed == 1


def test_a_checkpoint_tells_it_and_another_gamma_is_refused(tmp_path: Path) -> None:
    run(plain(), checkpoint_dir=tmp_path, awp=AWP(0.01))
    assert read(Checkpoints(tmp_path).paths()[-1])["settings"]["awp"] == "AWP(gamma=0.01, warmup=0)"
    with pytest.raises(CheckpointError, match=r"awp: AWP\(gamma=0\.01, warmup=0\) → AWP\(gamma=0\.02, warmup=0\)"):
        run(plain(), checkpoint_dir=tmp_path, awp=AWP(0.02), resume=True)


def test_learn2perturb_and_averaging_work_with_it() -> None:
    model = tiny.student(layer=stocnoise.StocL2P)
    watched = Watched(at)
    run(model, tiny.loader(8), objective=watched, gamma=1.0, ema=0.5)
    assert torch.equal(watched.weights[0]["2.sigma"], watched.weights[1]["2.sigma"])
    l2p = stocnoise.Learn2Perturb(noise_after=0, adversarial_after=0)
    history = run(tiny.student(layer=stocnoise.StocL2P), tiny.loader(), objective=l2p)
    assert history[0].unperturbed == 0 and history[0].robust_accuracy is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"gamma": 0}, "gamma must be"), ({"gamma": float("nan")}, "gamma must be"), ({"warmup": -1}, "warmup must be")],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AWP(**settings)


def test_what_is_no_awp_and_what_has_no_weights() -> None:
    with pytest.raises(TypeError, match=r"stocnoise\.AWP"):
        run(plain(), awp=0.005)
    model = plain()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    with pytest.raises(ValueError, match="at least two dimensions"):
        run(model)


def test_a_step_again_gives_its_images_and_then_attacks_anew() -> None:
    x, y = tiny.data(8).tensors
    step = Step(tiny.student(gamma=0.0), x, y, stocnoise.PGD(eps=0.1, steps=1))
    made = [step.adversarial(), step.adversarial()]
    step.logits(step.x, made[0])
    again = step.again()
    assert again.images == () and again.correct == {}
    assert again.adversarial() is made[0] and again.adversarial(FIXED) is made[1]
    assert all(again.adversarial() is not one for one in made)
    again.logits(made[0])
    assert again.correct["adversarial"][1] == 8 and step.correct["clean"][1] == 8
