"""AWP in a run: precisions, warm-up, resuming, what goes with it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from awp_models import FIXED, GAMMA, FirstPass, Watched, plain, run
from process_group import Interrupt
from torch import nn

import stocnoise
from stocnoise import AWP, CheckpointError, Step
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.objectives import at


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
