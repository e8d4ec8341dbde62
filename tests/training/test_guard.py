"""The guard undoes an epoch in which the student collapses, says so, and is otherwise not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from process_group import Interrupt
from torch import Tensor, nn

import stocnoise
from stocnoise import AWP, CheckpointError, Guard, Step
from stocnoise.attacks import BIM, CW, PGD
from stocnoise.attacks.modes import attack_mode
from stocnoise.training.checkpoints import Checkpoints, read, write
from stocnoise.training.objectives import at
from stocnoise.training.watch import shortened

EPOCHS = 4


def held() -> tuple[Tensor, Tensor]:
    """Images of two of the three classes, none of which is trained on."""
    x, y = tiny.data(60, seed=5).tensors
    return x[y < 2], y[y < 2]


class Destroy(stocnoise.Callback):
    """Makes the student say the third class, whatever it is shown, in the last step of some epochs, or in all."""

    def __init__(self, *epochs: int, throughout: bool = False) -> None:
        self.epochs = epochs
        self.throughout = throughout

    def on_step_end(self, run: Any) -> None:
        epoch, step = divmod(run.step - 1, run.steps_per_epoch)
        if epoch + 1 in self.epochs and (self.throughout or step == run.steps_per_epoch - 1):
            last = run.student[-1]
            with torch.no_grad():
                last.weight.zero_()
                last.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
            for layer in run.student:
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.fill_(7.0)


class Notes(stocnoise.Callback):
    """What the student and its optimiser are after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.momenta: list[list[Tensor]] = []

    def on_epoch_end(self, run: Any) -> None:
        self.states.append({name: value.clone() for name, value in run.student.state_dict().items()})
        momenta = run.optimizer.state_dict()["state"].values()
        self.momenta.append([state["momentum_buffer"].clone() for state in momenta])


class Attacks:
    """An objective that notes the step size of each attack that it is given."""

    def __init__(self) -> None:
        self.step_sizes: list[float | None] = []

    def __call__(self, step: Step) -> Tensor:
        self.step_sizes.append(step.attack.step_size)
        return at(step)


def run(model: nn.Module, *callbacks: stocnoise.Callback, **settings: Any) -> stocnoise.History:
    given: dict[str, Any] = {"epochs": EPOCHS, "guard": Guard(held()), "callbacks": callbacks, "gamma": 0.01}
    return tiny.finetune(model, tiny.loader(60, batch_size=20), **given | settings)


collapses = pytest.mark.filterwarnings("ignore:.*a collapse")


@pytest.mark.parametrize("settings", [{}, {"ema": 0.5, "awp": AWP(0.01)}, {"precision": "bf16"}], ids=str)
def test_without_a_collapse_the_run_is_that_without_it(settings: dict[str, Any]) -> None:
    given: dict[str, Any] = {"attack": PGD(eps=0.05, steps=2), "val_loader": tiny.loader(8)} | settings
    guarded, free = tiny.student(), tiny.student()
    history = run(guarded, **given)
    state = torch.get_rng_state()
    usual = run(free, guard=None, **given)
    assert torch.equal(state, torch.get_rng_state())
    assert tiny.same(guarded.state_dict(), free.state_dict())
    if "ema" in settings:
        assert tiny.same(history.averaged.state_dict(), usual.averaged.state_dict())
    for mine, theirs in zip(history, usual, strict=True):
        assert mine.guard_accuracy is not None and theirs.guard_accuracy is None
        assert not mine.collapsed
        assert (mine.loss, mine.val_robust_accuracy, mine.sigma) == (
            theirs.loss,
            theirs.val_robust_accuracy,
            theirs.sigma,
        )


def test_a_collapse_is_undone_and_said() -> None:
    notes, model = Notes(), tiny.student()
    with pytest.warns(
        UserWarning,
        match=r"epoch 3 ended with a robust accuracy of 0\.0% on the guard's batch, less than half of \d+\.\d%: a "
        r"collapse.*as it was before the epoch; from now on 0\.5 of what was asked: the training attack's step size$",
    ):
        history = run(model, Destroy(3), notes)
    assert [epoch.collapsed for epoch in history] == [False, False, True, False]
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    figures = [epoch.guard_accuracy for epoch in history]
    assert figures[2] == 0 and min(figures[1], figures[3]) > 0.4
    assert tiny.same(notes.states[2], notes.states[1])
    assert all(map(torch.equal, notes.momenta[2], notes.momenta[1]))
    assert not tiny.same(notes.states[3], notes.states[2])  # and it goes on


@collapses
def test_each_collapse_halves_the_step_of_the_attack_and_awp() -> None:
    attacks, lengths = Attacks(), list[float]()
    model = tiny.student()

    def objective(step: Step) -> Tensor:
        lengths.append(model[0].weight.norm().item())
        return attacks(step)

    run(model, Destroy(2, 3), objective=objective, attack=PGD(eps=0.05, steps=2, step_size=0.04), awp=AWP(0.1))
    assert attacks.step_sizes == [0.04] * 12 + [0.02] * 6 + [0.01] * 6


@collapses
def test_awp_moves_by_half_after_a_collapse() -> None:
    model, seen = tiny.student(), list[Tensor]()

    def objective(step: Step) -> Tensor:
        seen.append(model[0].weight.detach().clone())
        return at(step)

    run(model, Destroy(2), objective=objective, awp=AWP(0.1))
    moves = [
        ((moved - before).norm() / before.norm()).item() for before, moved in zip(seen[::2], seen[1::2], strict=True)
    ]
    assert moves == pytest.approx([0.1] * 6 + [0.05] * 6, rel=1e-3)


@collapses
@pytest.mark.parametrize(
    "scheduler",
    [None, lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)],
    ids=["one cycle", "by factors"],
)
def test_schedules_go_on(scheduler: Any) -> None:
    schedule = stocnoise.GammaSchedule(0.01, 0.05)
    model, free = tiny.student(), tiny.student()
    history = run(model, Destroy(3), scheduler=scheduler, gamma=schedule)
    usual = run(free, guard=None, scheduler=scheduler, gamma=schedule)
    assert [epoch.lr for epoch in history] == [epoch.lr for epoch in usual]
    assert [epoch.gamma for epoch in history] == [epoch.gamma for epoch in usual]
    assert model[2].gamma == free[2].gamma


@collapses
def test_an_averaged_student_goes_back_too() -> None:
    history = run(tiny.student(), Destroy(EPOCHS, throughout=True), ema=0.5)  # which is averaged before it comes
    x, y = held()
    with torch.no_grad(), stocnoise.fixed_noise(history.averaged, 0):
        assert (history.averaged(x).argmax(1) == y).float().mean() > 0.5
    assert history[-1].collapsed


def test_after_the_last_collapse_it_stops_with_good_weights(tmp_path: Path) -> None:
    notes, model = Notes(), tiny.student()
    with pytest.warns(UserWarning, match="collapse") as caught:
        history = run(
            model, Destroy(*range(2, 9)), notes, epochs=8, guard=Guard(held(), limit=2), checkpoint_dir=tmp_path
        )
    assert "training stops, since this is collapse number 3" in str(caught[-1].message)
    assert [epoch.collapsed for epoch in history] == [False, True, True, True]
    assert tiny.same(model.state_dict(), notes.states[0])
    again = tiny.student(seed=3)
    settings: dict[str, Any] = {"epochs": 8, "guard": Guard(held(), limit=2), "checkpoint_dir": tmp_path}
    assert run(again, Destroy(), Notes(), resume=True, **settings).to_dict() == history.to_dict()
    assert tiny.same(again.state_dict(), model.state_dict())


@collapses
@pytest.mark.parametrize("step", [8, 9, 11], ids=["within the epoch", "at its end", "after it"])
def test_it_resumes_bit_for_bit(tmp_path: Path, step: int) -> None:
    """Epoch 3 (steps 7 to 9) collapses, epoch 4 too."""

    def train(folder: str, stop: int | None) -> tuple[nn.Module, stocnoise.History]:
        model = tiny.student()
        history = run(
            model,
            Interrupt(stop),
            Destroy(3, 4),
            epochs=5,
            ema=0.5,
            awp=AWP(0.02),
            checkpoint_dir=tmp_path / folder,
            checkpoint_every=1,
            keep_checkpoints=1,
            resume=True,
        )
        return model, history

    whole, history = train("whole", None)
    assert [epoch.collapsed for epoch in history] == [False, False, True, True, False]
    with pytest.raises(KeyboardInterrupt):
        train("stopped", step)
    resumed, later = train("stopped", None)
    assert tiny.same(whole.state_dict(), resumed.state_dict())
    assert tiny.same(history.averaged.state_dict(), later.averaged.state_dict())
    figures = ("loss", "guard_accuracy", "collapsed", "sigma", "lr")
    assert [[getattr(e, f) for f in figures] for e in history] == [[getattr(e, f) for f in figures] for e in later]


@collapses
def test_a_collapse_that_a_shorter_step_prevents_is_over_after_it() -> None:
    """As long as steps are long the student learns wrong answers, from epoch 3 on."""

    def objective(step: Step) -> Tensor:
        (logits,) = step.logits(step.adversarial())
        wrong = step.epoch >= 2 and step.attack.step_size > 0.03
        return F.cross_entropy(logits, (step.y + 1) % 3 if wrong else step.y)

    def accuracy(guard: Guard | None) -> tuple[float, list[bool]]:
        model, (x, y) = tiny.student(), held()
        attack = PGD(eps=0.05, steps=1, step_size=0.1)
        history = run(model, objective=objective, attack=attack, guard=guard, epochs=10, lr=0.2)
        with attack_mode(model), torch.no_grad():
            return (model(x).argmax(1) == y).float().mean().item(), [epoch.collapsed for epoch in history]

    kept, collapsed = accuracy(Guard(held()))
    lost, _ = accuracy(None)
    assert sum(collapsed) == 2 and not collapsed[-1]  # two halves of 0.1 are short
    assert kept > 0.8 and lost < 0.2


def test_its_own_attack_is_the_training_attacks_ball() -> None:
    x, y = held()

    def watched(noisy: bool, **settings: Any) -> None:
        model = tiny.student() if noisy else nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        tiny.finetune(model, tiny.loader(8), epochs=1, gamma=0.1 if noisy else None, **settings)

    seen: list[tuple[Any, ...]] = []
    attacked = PGD.__call__

    def spy(self: PGD, model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> Tensor:
        if len(x) == len(held()[0]):
            seen.append((self.eps, self.norm, self.steps, self.eot, self.bounds))
        return attacked(self, model, x, y, **more)

    PGD.__call__ = spy  # type: ignore[method-assign]
    try:
        watched(True, attack=PGD(eps=0.3, norm="l2", steps=3), guard=Guard((x, y)))
        watched(False, attack=PGD(eps=0.3, steps=1), guard=Guard((x, y)), bounds=(-1.0, 2.0))
        watched(True, attack=PGD(eps=0.3), guard=Guard((x, y), PGD(eps=0.1, steps=4)), bounds=(-1.0, 2.0))
    finally:
        PGD.__call__ = attacked  # type: ignore[method-assign]
    assert seen == [
        (0.3, "l2", 10, 8, (0.0, 1.0)),
        (0.3, "inf", 10, 1, (-1.0, 2.0)),
        (0.1, "inf", 4, 1, (-1.0, 2.0)),
    ]


def test_steps_shortened() -> None:
    assert shortened(PGD(eps=0.1, steps=5), 0.5).step_size == pytest.approx(0.025)
    assert shortened(BIM(eps=0.1, steps=1, step_size=0.1), 0.25) == BIM(eps=0.1, steps=1, step_size=0.025)
    budget = torch.tensor([[[0.1]]])
    assert shortened(PGD(eps=budget, steps=5), 0.5).step_size == pytest.approx(0.25)  # in units of the budget
    usual = PGD(eps=0.1)
    assert shortened(usual, 1.0) is usual
    assert shortened(CW(), 0.5) == CW()


@collapses
def test_an_attack_without_steps_stays_and_nothing_else_is_promised() -> None:
    with pytest.warns(UserWarning, match=r"as it was before the epoch$"):
        run(tiny.student(), Destroy(3), attack=stocnoise.RandomNoise(eps=0.05))


def test_a_checkpoint_tells_it_and_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny.student(), Interrupt(3), checkpoint_dir=tmp_path, checkpoint_every=1)
    newest = Checkpoints(tmp_path).paths()[-1]
    tree = read(newest)
    assert tree["settings"]["guard"] == "Guard(attack=None, limit=3)"
    settings: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True}
    with pytest.raises(CheckpointError, match=r"guard: .*limit=3.* → .*limit=1"):
        run(tiny.student(), Interrupt(None), guard=Guard(held(), limit=1), **settings)
    for part, wrong in (("best", "x"), ("times", -1), ("kept", {"model": {}, "optimizer": {}})):
        changed = read(newest)
        changed["guard"][part] = wrong
        write(newest, changed)
        with pytest.raises(CheckpointError, match="another guard"):
            run(tiny.student(), Interrupt(None), **settings)
    changed = read(newest)
    changed["guard"] = tree["guard"]
    changed["history"] = [{"epoch": 1, "loss": 1.0, "collapsed": 1}]
    write(newest, changed)
    with pytest.raises(CheckpointError, match=r"history\[0\]\.collapsed must be true or false"):
        run(tiny.student(), Interrupt(None), **settings)


def test_other_inputs_of_a_model_reach_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny.student()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.inner(x * scale.view(-1, 1, 1, 1))

    x, y = held()
    batches = [{"x": x[i::4], "label": y[i::4], "scale": torch.ones(len(x[i::4]))} for i in range(4)]
    history = tiny.finetune(
        Scaled(), batches[1:], batch=("x", "label", "scale"), epochs=1, gamma=0.1, guard=Guard(batches[0])
    )
    assert history[0].guard_accuracy is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guard": Guard(tiny.loader())}, r"a batch must be \(images, labels\)"),
        ({"guard": Guard((tiny.data(8).tensors[0] * 255, tiny.data(8).tensors[1]))}, "images span"),
        ({"guard": Guard(held()), "attack": lambda model, x, y: x}, "has no ε that the guard could take"),
        ({"guard": Guard((torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 7])))}, "7"),
    ],
)
def test_what_cannot_work_is_said_before_anything_moves(settings: dict[str, Any], words: str) -> None:
    model = tiny.student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        tiny.finetune(model, **settings)
    assert tiny.same(model.state_dict(), before)


def test_what_is_no_guard() -> None:
    with pytest.raises(TypeError, match=r"stocnoise\.Guard"):
        tiny.finetune(tiny.student(), guard=held())
    with pytest.raises(ValueError, match="limit must be"):
        Guard(held(), limit=-1)
    for attack in ("pgd", PGD(targeted=True)):
        with pytest.raises(ValueError, match="untargeted"):
            Guard(held(), attack)
