"""What is said of learning rates reaches the optimiser, when it was meant to, or is refused before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn
from torch.optim import lr_scheduler

import stocnoise
from stocnoise import Callback
from stocnoise.training.history import Epoch
from stocnoise.training.optim import metric


class Rates(Callback):
    """The learning rate and decay of each step."""

    def __init__(self) -> None:
        self.lr: list[float] = []
        self.decay: list[float] = []

    def on_step_end(self, run: stocnoise.training.Run) -> None:
        self.lr.append(run.optimizer.param_groups[0]["lr"])
        self.decay.append(run.optimizer.param_groups[0]["weight_decay"])


def constant(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, lambda groups: torch.optim.AdamW(groups, lr=1.0)])
def test_lr_and_weight_decay_reach_what_makes_the_optimizer(optimizer: Any) -> None:
    seen = Rates()
    tiny.finetune(tiny.student(), optimizer=optimizer, scheduler=constant, lr=1e-5, weight_decay=0.05, callbacks=[seen])
    assert seen.lr == [1e-5] * 6
    assert seen.decay == [0.05] * 6


def test_unsaid_they_are_the_optimizers_own() -> None:
    seen = Rates()
    tiny.finetune(
        tiny.student(), optimizer=lambda g: torch.optim.Adam(g, lr=0.002), scheduler=constant, callbacks=[seen]
    )
    assert seen.lr == [0.002] * 6
    assert seen.decay == [5e-4] * 6


class Sharp(torch.optim.SGD):
    """The two steps of SAM, which asserts its closure."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None

    def first_step(self) -> None: ...
    def second_step(self) -> None: ...


class NoDecay(torch.optim.Optimizer):
    def __init__(self, groups: Iterable[Any], lr: float = 0.1) -> None:
        super().__init__(groups, {"lr": lr})


def other_parameters(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"optimizer": lambda m: torch.optim.SGD(m.parameters(), lr=0.1), "lr": 0.2}, ValueError, "lr cannot reach"),
        (
            {"optimizer": lambda m: torch.optim.SGD(m.parameters(), lr=0.1), "lr": 0.2, "weight_decay": 0.0},
            ValueError,
            "lr and weight_decay cannot reach",
        ),
        ({"optimizer": lambda m: lambda groups: other_parameters(groups), "lr": 0.2}, ValueError, "lr=0.2 did not"),
        ({"optimizer": lambda m: NoDecay, "weight_decay": 0.1}, ValueError, "weight_decay=0.1 did not"),
        ({"optimizer": lambda m: other_parameters}, ValueError, "no parameter of the student"),
        ({"optimizer": lambda m: torch.optim.LBFGS}, ValueError, "LBFGS .* by a closure"),
        ({"optimizer": lambda m: torch.optim.LBFGS(m.parameters())}, ValueError, "LBFGS .* by a closure"),
        ({"optimizer": lambda m: Sharp(m.parameters(), lr=0.1)}, ValueError, "Sharp .* by a closure"),
        ({"optimizer": lambda m: "adam"}, TypeError, "optimizer must be"),
        ({"optimizer": lambda m: lambda groups: None}, TypeError, "optimizer must be"),
    ],
)
def test_an_optimizer_that_cannot_do_it_is_refused(settings: dict[str, Any], kind: Any, words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(kind, match=words):
        tiny.finetune(model, **(settings | {"optimizer": settings["optimizer"](model)}))
    assert tiny.same(model.state_dict(), before)


def rates(make: Callable[[torch.optim.Optimizer], Any], epochs: int = 4, **settings: Any) -> list[float]:
    """The learning rate after each of the steps, three an epoch, from SGD at 0.08."""
    model, seen = tiny.student(), Rates()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.08)
    tiny.finetune(model, epochs=epochs, optimizer=optimizer, scheduler=make(optimizer), callbacks=[seen], **settings)
    return seen.lr


def test_a_schedule_may_count_epochs() -> None:
    by_epoch = rates(lambda o: lr_scheduler.MultiStepLR(o, [2, 3]), scheduler_step="epoch")
    assert by_epoch == pytest.approx([0.08] * 6 + [0.008] * 3 + [0.0008] * 3)
    by_step = rates(lambda o: lr_scheduler.MultiStepLR(o, [2, 3]), epochs=1)
    assert by_step == pytest.approx([0.08, 0.008, 0.0008])
    assert rates(lambda o: lr_scheduler.MultiStepLR(o, [2, 3]), epochs=1, scheduler_step="step") == by_step


def plateau(optimizer: torch.optim.Optimizer, mode: Any = "min") -> Any:
    return lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=0, threshold=1e6, threshold_mode="abs")


@pytest.mark.parametrize("each", [None, "epoch"])
def test_plateau_follows_the_loss_or_the_accuracy(each: Any) -> None:
    """Nothing improves by as much as the threshold: halved after every epoch but the first."""

    def plateau(mode: str) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda o: lr_scheduler.ReduceLROnPlateau(
            o, mode, factor=0.5, patience=0, threshold=1e6, threshold_mode="abs"
        )

    expected = [0.08] * 6 + [0.04] * 3 + [0.02] * 3
    assert rates(plateau("min"), scheduler_step=each) == pytest.approx(expected)
    assert rates(plateau("max"), scheduler_step=each, val_loader=tiny.loader()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "known", "expected"),
    [
        ("min", {"val_accuracy": 0.5}, 2.0),
        ("max", {"accuracy": 0.1, "robust_accuracy": 0.2, "val_accuracy": 0.3, "val_robust_accuracy": 0.4}, 0.4),
        ("max", {"accuracy": 0.1, "robust_accuracy": 0.2}, 0.2),
        ("max", {"accuracy": 0.1}, 0.1),
        ("max", {}, -2.0),
    ],
)
def test_the_figure_that_a_schedule_follows(mode: str, known: dict[str, float], expected: float) -> None:
    unknown = dict.fromkeys(("accuracy", "robust_accuracy", "val_accuracy", "val_robust_accuracy"))
    assert metric(Epoch(epoch=1, loss=2.0, gamma=None, **(unknown | known)), mode) == expected  # type: ignore[arg-type]


def test_timm_schedules_know_what_they_count() -> None:
    scheduler = pytest.importorskip("timm.scheduler")

    def step(o: torch.optim.Optimizer, **settings: Any) -> Any:
        return scheduler.StepLRScheduler(o, decay_t=2, decay_rate=0.5, **settings)

    assert rates(step) == pytest.approx([0.08] * 6 + [0.04] * 6)
    updates = rates(lambda o: step(o, t_in_epochs=False), epochs=2)
    assert updates == pytest.approx([0.08, 0.04, 0.04, 0.02, 0.02, 0.01])


def test_a_schedule_of_epochs_resumes_bit_for_bit(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def __init__(self, step: int | None) -> None:
            self.step = step

        def on_step_end(self, run: stocnoise.training.Run) -> None:
            if run.step == self.step:
                raise KeyboardInterrupt

    def run(folder: str, step: int | None) -> dict[str, Tensor]:
        model = tiny.student()
        tiny.finetune(
            model,
            epochs=3,
            optimizer=torch.optim.SGD,
            lr=0.08,
            scheduler=lambda o, steps: lr_scheduler.ReduceLROnPlateau(
                o, factor=0.5, patience=0, threshold=1e6, threshold_mode="abs"
            ),
            checkpoint_dir=tmp_path / folder,
            checkpoint_every=1,
            resume=True,
            callbacks=[Interrupt(step)],
        )
        return model.state_dict()

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 8)
    assert tiny.same(run("killed", None), whole)


class NeedsMore:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self, tokens: int) -> None: ...


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (NeedsMore, {}, "NeedsMore, needs arguments"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o), {"scheduler_step": "step"}, "leave out scheduler_step"),
        (lambda o: lr_scheduler.StepLR(o, 1), {"scheduler_step": "epochs"}, "scheduler_step must be"),
        (lambda o: None, {"scheduler_step": "epoch"}, "without scheduler= leave it out"),
        (lambda o: lr_scheduler.StepLR(tiny_sgd(), 1), {}, "of another optimizer"),
    ],
)
def test_a_schedule_that_cannot_do_it_is_refused(make: Any, settings: dict[str, Any], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=words):
        tiny.finetune(model, optimizer=optimizer, scheduler=make(optimizer), **settings)
    assert tiny.same(model.state_dict(), before)


def tiny_sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
