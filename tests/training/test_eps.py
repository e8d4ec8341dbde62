"""ε of the training attack grows over the first epochs, step by step; validation never does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import APGD, BIM, CW, PGD, EpsSchedule, History, RandomNoise, Step, Transfer
from stocnoise.attacks import Attack
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.objectives import at

X, Y = (part[:4] for part in tiny.data().tensors)
BY_FEATURE = torch.linspace(0, 0.2, 36).view(1, 6, 6)


def attacks_of_a_run(**settings: Any) -> tuple[list[PGD], stocnoise.History]:
    """The attack that each batch was given to, in order."""
    seen: list[PGD] = []

    def objective(step: Step) -> Tensor:
        assert isinstance(step.attack, PGD)
        seen.append(step.attack)
        return at(step)

    return seen, tiny.finetune(tiny.student(), objective=objective, **settings)


def test_it_grows_with_every_step_to_the_attack_itself() -> None:
    attack = PGD(eps=0.1, steps=2, step_size=0.03)
    seen, history = attacks_of_a_run(attack=attack, epochs=3, eps=EpsSchedule(epochs=1.5, init=0.25))
    shares = [0.25 + 0.75 * min(step / 4.5, 1) for step in range(9)]  # three steps an epoch
    assert [each.eps for each in seen] == pytest.approx([0.1 * share for share in shares])
    assert [each.step_size for each in seen] == pytest.approx([0.03 * share for share in shares])
    assert all(each is seen[-1] for each in seen[5:]) and seen[-1] == attack
    ends = [0.25 + 0.75 * min(epoch / 1.5, 1) for epoch in (1, 2, 3)]
    assert [epoch.eps for epoch in history] == pytest.approx([0.1 * share for share in ends])


def test_batches_of_one_optimiser_step_have_one_eps() -> None:
    loader = tiny.loader(batch_size=6)  # four batches, two steps
    seen, _ = attacks_of_a_run(train_loader=loader, epochs=1, accumulate=2, eps=EpsSchedule(epochs=1))
    assert [each.eps for each in seen] == pytest.approx([0, 0, 0.05, 0.05])


def test_a_budget_for_each_feature_grows_along() -> None:
    seen, history = attacks_of_a_run(attack=PGD(eps=BY_FEATURE, steps=2), eps=EpsSchedule(epochs=2))
    for step, each in enumerate(seen):
        torch.testing.assert_close(each.eps, BY_FEATURE * step / 6)
    assert [epoch.eps for epoch in history] == pytest.approx([0.1, 0.2])  # the largest


def test_a_loop_of_ones_own() -> None:
    schedule, attack = EpsSchedule(epochs=2, init=0.5), PGD(eps=0.2)
    assert [schedule(attack, epochs).eps for epochs in (0, 0.5, 1, 1.5)] == pytest.approx([0.1, 0.125, 0.15, 0.175])  # type: ignore[attr-defined]
    assert schedule(attack, 2) is attack and schedule(attack, 7.5) is attack


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.1, step_size=0.02),
        PGD(eps=1.0, norm="l2"),
        PGD(eps=BY_FEATURE),
        PGD.single_step(0.1),
        PGD.single_step(BY_FEATURE),
        PGD.fgsm_rs(0.1),
        BIM(eps=0.1),
        APGD(eps=0.1, steps=3),
        RandomNoise(eps=0.1),
        Transfer(source=tiny.student(gamma=0.0), attack=PGD(step_size=0.02), eps=0.1),
    ],
    ids=str,
)
def test_from_zero_the_first_step_is_clean(attack: Attack) -> None:
    model = tiny.student(gamma=0.0).eval()
    torch.testing.assert_close(EpsSchedule(epochs=1)(attack, 0)(model, X, Y), X, rtol=0, atol=1e-7)
    assert not torch.equal(EpsSchedule(epochs=1)(attack, 0.5)(model, X, Y), X)


@pytest.mark.parametrize("objective", ["at", "trades", "mixed"])
def test_every_objective_trains_from_zero(objective: str) -> None:
    history = tiny.finetune(tiny.student(), objective=objective, eps=EpsSchedule(epochs=1))
    assert all(torch.tensor(epoch.loss).isfinite() for epoch in history)


def test_the_whole_eps_from_the_first_step_is_no_schedule() -> None:
    with_schedule, without = tiny.student(), tiny.student()
    tiny.finetune(with_schedule, eps=EpsSchedule(epochs=2, init=1.0))
    tiny.finetune(without)
    assert tiny.same(with_schedule.state_dict(), without.state_dict())


@dataclass(frozen=True, kw_only=True)
class Watched(PGD):
    """Tells of every call its ε."""

    seen: list[Any] = field(default_factory=list)

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        self.seen.append(self.eps)
        return super().__call__(model, *args, **kwargs)


def test_validation_has_the_whole_eps() -> None:
    attack = Watched(eps=0.1, steps=1)
    tiny.finetune(tiny.student(), epochs=1, attack=attack, eps=EpsSchedule(epochs=1), val_loader=tiny.loader(8))
    assert attack.seen == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


class Interrupt(stocnoise.Callback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, run: stocnoise.training.Run) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


def test_interrupted_within_the_warm_up_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(folder: str, step: int | None) -> tuple[nn.Module, History]:
        model = tiny.student()
        kept: dict[str, Any] = {"checkpoint_dir": tmp_path / folder, "checkpoint_every": 1, "resume": True}
        history = tiny.finetune(model, eps=EpsSchedule(epochs=1.7), callbacks=[Interrupt(step)], **kept)
        return model, history

    whole, history = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("interrupted", 5)
    resumed, resumed_history = run("interrupted", None)
    assert tiny.same(whole.state_dict(), resumed.state_dict())
    assert [e.eps for e in history] == [e.eps for e in resumed_history] == pytest.approx([0.1 / 1.7, 0.1])
    settings = read(Checkpoints(tmp_path / "whole").paths()[-1])["settings"]
    assert settings["eps"] == "EpsSchedule(epochs=1.7, init=0.0)"


def test_a_run_of_another_schedule_is_not_gone_on_with(tmp_path: Path) -> None:
    tiny.finetune(tiny.student(), checkpoint_dir=tmp_path)
    with pytest.raises(stocnoise.CheckpointError, match=r"eps: None → EpsSchedule\(epochs=1, init=0\.0\)"):
        tiny.finetune(tiny.student(), checkpoint_dir=tmp_path, resume=True, eps=EpsSchedule(epochs=1))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"eps": 8 / 255}, TypeError, r"eps must be a stocnoise\.EpsSchedule.*attack=PGD\(eps=…\)"),
        ({"eps": EpsSchedule(3)}, ValueError, "never reach the attack's eps in a run of 2 epochs"),
        ({"eps": EpsSchedule(1), "attack": CW()}, ValueError, "needs an attack within eps.*not CW"),
        ({"eps": EpsSchedule(1), "attack": lambda model, x, y: x}, ValueError, "needs an attack within eps"),
    ],
)
def test_what_cannot_be_is_refused_before_any_step(settings: Any, error: type[Exception], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=words):
        tiny.finetune(model, **settings)
    assert tiny.same(model.state_dict(), before)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"epochs": -1}, {"epochs": "2"}, {"init": 1.5}, {"init": -0.1}])
def test_bad_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        EpsSchedule(**{"epochs": 1} | settings)


def test_it_is_told_while_it_goes_and_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    history = tiny.finetune(tiny.student(), eps=EpsSchedule(epochs=2), progress=True)
    assert "ε=0.1" in capsys.readouterr().err
    assert ">ε</th>" in history._repr_html_()
    axes = {each.get_ylabel(): each for each in history.plot().axes}
    assert list(axes["ε after the epoch"].lines[0].get_ydata()) == pytest.approx([0.05, 0.1])


def test_figures_of_earlier_versions_load() -> None:
    history = tiny.finetune(tiny.student())
    assert [epoch.eps for epoch in history] == [None, None]
    earlier = [{name: value for name, value in e.items() if name not in ("eps", "best")} for e in history.to_dict()]
    assert History.from_dict(earlier).to_dict() == history.to_dict()
    assert "ε" not in history._repr_html_()
