"""What a user of `finetune` relies on."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import Callback, GammaSchedule, Learn2Perturb, Step, StocFixed, StocL2P, stochastic_layers
from stocnoise.training.checkpoints import Checkpoints


def accuracy(model: nn.Module) -> float:
    x, y = tiny.data(200, seed=5).tensors
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == y).float().mean().item()


def test_learns_and_reports() -> None:
    model = tiny.student()
    history = tiny.finetune(model, tiny.loader(64), epochs=6, val_loader=tiny.loader(48))
    assert accuracy(model) > 0.9
    assert [e.epoch for e in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].loss < history[0].loss
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy > 0.9
    assert history[-1].accuracy is None  # "at" makes no clean pass
    assert [e.gamma for e in history] == pytest.approx([0.01 + 0.015 * k for k in range(6)])
    assert {round(layer.gamma.item(), 6) for _, layer in stochastic_layers(model)} == {0.1}
    assert list(history[-1].sigma) == ["2", "5"]
    assert history[-1].sigma["2"] == pytest.approx(model[2].sigma.mean().item())


def test_the_five_settings_of_the_paper() -> None:
    """None, AT, TRADES, Learn2Perturb and ANIS² are one program."""
    relu_net = tiny.student()
    relu_net[2], relu_net[5] = nn.ReLU(), nn.ReLU()
    settings: list[tuple[nn.Module, dict[str, Any]]] = [
        (copy.deepcopy(relu_net), {"objective": "clean"}),
        (copy.deepcopy(relu_net), {"objective": "at"}),
        (copy.deepcopy(relu_net), {"objective": "trades"}),
        (tiny.student(StocL2P), {"objective": Learn2Perturb(noise_after=1, adversarial_after=2)}),
        (tiny.student(), {"objective": "at"}),
        (tiny.student(StocFixed), {"objective": "at"}),
    ]
    for model, chosen in settings:
        history = tiny.finetune(model, tiny.loader(48), epochs=5, **chosen)
        assert accuracy(model) > 0.8, chosen
        assert (history[-1].gamma is None) == (not any(stochastic_layers(model)))


def test_same_seed_same_run_whatever_came_before() -> None:
    states = []
    for warm_up in (0, 5):
        torch.randn(warm_up)
        model = tiny.student()
        tiny.finetune(model, seed=3)
        states.append(model.state_dict())
    other = tiny.student()
    tiny.finetune(other, seed=4)
    assert tiny.same(*states)
    assert not tiny.same(states[0], other.state_dict())


def test_leaves_modes_and_forward_as_found() -> None:
    model = tiny.student().eval()
    model[1].train()
    tiny.finetune(model, precision="bf16")
    assert not model.training
    assert model[1].training
    assert "forward" not in vars(model)
    assert copy.deepcopy(model)(torch.rand(2, 1, 6, 6)).dtype == torch.float32


def test_runs_of_different_precision_follow_each_other() -> None:
    for precision in ("no", "bf16", "no"):
        tiny.finetune(tiny.student(), epochs=1, precision=precision)


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


def test_refuses_an_optimizer_that_decays_sigma() -> None:
    model = tiny.student(StocL2P)
    with pytest.raises(ValueError, match="parameter_groups"):
        tiny.finetune(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))


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


def test_callbacks_are_called_and_may_stop(tmp_path: Path) -> None:
    calls: list[str] = []

    class Record(Callback):
        def on_epoch_begin(self, run: stocnoise.training.Run) -> None:
            calls.append(f"begin {run.epoch}")

        def on_epoch_end(self, run: stocnoise.training.Run) -> None:
            calls.append(f"end {run.epoch} {len(run.history)}")
            run.stop = run.epoch == 2

        def on_checkpoint(self, run: stocnoise.training.Run, path: Path) -> None:
            calls.append(path.name)

    history = tiny.finetune(tiny.student(), epochs=5, callbacks=[Record()], checkpoint_dir=tmp_path)
    assert len(history) == 2
    assert calls == [
        "begin 0",
        "end 1 1",
        "step-000000003.safetensors",
        "begin 1",
        "end 2 2",
        "step-000000006.safetensors",
    ]


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


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = tiny.finetune(tiny.student(), checkpoint_dir=tmp_path, log_with="tensorboard")
    events = EventAccumulator(str(tmp_path / "stocnoise"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e.loss for e in history])
    assert [e.step for e in events.Scalars("sigma/2")] == [3, 6]


def test_progress_bar_shows_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    tiny.finetune(tiny.student(), progress=True, objective="mixed")
    shown = capsys.readouterr().err
    for word in ("epoch 2/2", "loss=", "acc=", "robust=", "γ=0.01"):
        assert word in shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"resume": True}, "checkpoint_dir"),
        ({"checkpoint_every": 3}, "checkpoint_dir"),
        ({"attack_target": "labels"}, "attack_target"),
        ({"objective": Learn2Perturb(), "gamma": GammaSchedule()}, "leave out gamma"),
        ({"objective": Learn2Perturb()}, "layer=StocL2P"),
        ({"gamma": GammaSchedule(epochs=7)}, "7 epochs"),
        ({"train_loader": iter([])}, "no length"),
        ({"train_loader": []}, "empty"),
        ({"train_loader": [tiny.data(8).tensors], "accumulate": 2}, "DataLoader"),
    ],
)
def test_bad_settings_are_named_before_anything_changes(settings: dict[str, Any], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        tiny.finetune(model, **settings)
    assert tiny.same(model.state_dict(), before)


def test_a_schedule_needs_a_stochastic_model() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        tiny.finetune(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), gamma=GammaSchedule())


def test_a_converted_model_trains() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    student = stocnoise.convert(teacher, torch.rand(2, 1, 6, 6))
    tiny.finetune(student, tiny.loader(64), epochs=5)
    assert accuracy(student) > 0.9
    assert accuracy(stocnoise.revert(student)) > 0.9


def test_history_draws_itself(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = tiny.finetune(tiny.student(), objective="mixed", val_loader=tiny.loader())
    figure = history.plot(str(tmp_path / "run.png"))
    accuracies, gamma, sigma = figure.axes
    assert [line.get_label() for line in accuracies.lines] == [
        "accuracy",
        "robust accuracy",
        "val accuracy",
        "val robust accuracy",
    ]
    assert list(gamma.lines[0].get_ydata()) == [e.gamma for e in history]
    assert len(sigma.lines) == 2
    assert (tmp_path / "run.png").stat().st_size > 0


def test_the_newest_checkpoint_is_the_end_of_the_run(tmp_path: Path) -> None:
    from stocnoise.training.checkpoints import read

    model = tiny.student()
    tiny.finetune(model, checkpoint_dir=tmp_path)
    assert tiny.same(read(Checkpoints(tmp_path).paths()[-1])["model"], model.state_dict())


def test_a_wrapped_student_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass its \.module"):
        tiny.finetune(nn.DataParallel(tiny.student()))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without a GPU")
def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        tiny.finetune(tiny.student(), precision="fp16")
    tiny.finetune(tiny.student(), epochs=1, precision="bf16")  # and leaves nothing behind


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
