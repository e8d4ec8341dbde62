"""Each setting of how `finetune` trains does what it says."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor

import stocnoise
from stocnoise import Callback, GammaSchedule, Step, StocL2P


def test_weight_decay_leaves_sigma_and_gamma_alone() -> None:
    """With no gradient signal but decay, weights shrink and σ does not."""
    model = tiny.student(StocL2P)

    def nothing(step: Step) -> Tensor:
        return step.logits(step.x)[0].sum() * 0 + 0 * sum(p.sum() for p in model.parameters())

    weight = model[7].weight.detach().clone()
    tiny.finetune(model, objective=nothing, weight_decay=0.5, gamma=None)
    assert model[7].weight.norm() < 0.9 * weight.norm()
    assert torch.equal(model[2].sigma, torch.full((4,), 0.25))
    assert model[2].gamma.item() == pytest.approx(0.01)


def test_optimizer_and_scheduler_of_ones_own() -> None:
    model = tiny.student()
    optimizer = torch.optim.AdamW(stocnoise.parameter_groups(model, 0.01), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    history = tiny.finetune(model, optimizer=optimizer, scheduler=scheduler)
    assert [e.lr for e in history] == pytest.approx([0.001, 0.0001])
    made = tiny.finetune(
        tiny.student(), scheduler=lambda o, steps: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.5, total_iters=steps)
    )
    assert made[-1].lr == pytest.approx(0.025)


def test_accumulation_steps_once_for_several_batches() -> None:
    steps: list[int] = []

    class Count(Callback):
        def on_step_end(self, run: stocnoise.training.Run) -> None:
            steps.append(run.step)

    tiny.finetune(tiny.student(), tiny.loader(batch_size=4), accumulate=4, callbacks=[Count()])
    assert steps == [1, 2, 3, 4]  # 6 batches an epoch: 4 and 2


def test_ema_averages_weights_and_keeps_gamma() -> None:
    model = tiny.student()
    steps: list[Tensor] = []

    class Keep(Callback):
        def on_step_end(self, run: stocnoise.training.Run) -> None:
            steps.append(model[7].weight.detach().clone())

    history = tiny.finetune(model, ema=0.75, callbacks=[Keep()])
    expected = steps[0]  # the average begins after the first step
    for weight in steps[1:]:
        expected = 0.75 * expected + 0.25 * weight
    assert history.averaged is not None
    averaged = history.averaged[7].weight
    torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-5)
    assert history.averaged[2].gamma.item() == pytest.approx(0.1)


def test_runs_of_different_precision_follow_each_other() -> None:
    for precision in ("no", "bf16", "no"):
        tiny.finetune(tiny.student(), epochs=1, precision=precision)


def test_bfloat16_trains_under_autocast() -> None:
    dtypes: set[torch.dtype] = set()
    model = tiny.student()
    model[0].register_forward_hook(lambda module, x, y: dtypes.add(y.dtype))
    tiny.finetune(model, precision="bf16", objective="trades")
    assert dtypes == {torch.bfloat16}  # the attack's passes too
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_channels_last_reaches_the_model() -> None:
    strides: set[tuple[int, ...]] = set()
    model = tiny.student()
    model[3].register_forward_pre_hook(lambda module, x: strides.add(x[0].stride()) if module.training else None)
    tiny.finetune(model, channels_last=True)
    assert strides == {(4 * 4 * 4, 1, 4 * 4, 4)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_run_matches_eager() -> None:
    """Without noise and random start, since a compiled pass draws other random numbers."""
    eager, compiled = tiny.student(), tiny.student()
    settings: dict[str, Any] = {"gamma": GammaSchedule(0, 0), "attack": stocnoise.BIM(eps=0.1, steps=2)}
    tiny.finetune(eager, **settings)
    tiny.finetune(compiled, compile=True, **settings)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    assert compiled._compiled_call_impl is None


def test_runs_on_an_accelerator_of_ones_own() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    try:
        steps = []

        class Count(Callback):
            def on_step_end(self, run: stocnoise.training.Run) -> None:
                steps.append(run.step)

        tiny.finetune(tiny.student(), accelerator=accelerator, callbacks=[Count()])
        assert steps == [1, 2]  # one an epoch: three batches each
        with pytest.raises(ValueError, match="settings of your accelerator"):
            tiny.finetune(tiny.student(), accelerator=accelerator, accumulate=2)
    finally:
        AcceleratorState._reset_state()
