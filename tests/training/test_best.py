"""The weights of the epoch with the best robust accuracy come back, from memory and from checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import BIM, CheckpointError, History, Step
from stocnoise.training import Epoch
from stocnoise.training.checkpoints import Checkpoints, read, write
from stocnoise.training.objectives import at

GOOD = 3
"""Epochs in which `learns_and_forgets` learns."""


def learns_and_forgets(step: Step) -> Tensor:
    """Adversarial training at first; then other labels, so that robust accuracy falls beyond doubt."""
    if step.epoch < GOOD:
        return at(step)
    (logits,) = step.logits(step.adversarial())
    return 5 * F.cross_entropy(logits, (step.y + 1) % 3)


class Watch(stocnoise.Callback):
    """The student's state after each epoch, γ aside, which is the next epoch's by then."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.stop_at = stop_at

    def on_epoch_end(self, run: stocnoise.training.Run) -> None:
        self.states.append({name: value.clone() for name, value in run.student.state_dict().items()})

    def on_step_end(self, run: stocnoise.training.Run) -> None:
        if run.step == self.stop_at:
            raise KeyboardInterrupt


def run(model: nn.Module, **settings: Any) -> History:
    given: dict[str, Any] = {
        "epochs": GOOD + 2,
        "objective": learns_and_forgets,
        "attack": BIM(eps=0.05, steps=2),
        "val_loader": tiny.loader(),
    }
    return tiny.finetune(model, **given | settings)


def without_gamma(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("gamma")}


def test_the_weights_are_those_of_the_best_epoch() -> None:
    student, watch = tiny.student(), Watch()
    history = run(student, callbacks=[watch])
    best = history.best
    assert best is not None and best.epoch <= GOOD
    assert best.robust_accuracy == max(epoch.val_robust_accuracy or 0 for epoch in history)
    assert best.accuracy == history[best.epoch - 1].val_accuracy
    best.restore(student)
    assert tiny.same(without_gamma(student.state_dict()), without_gamma(watch.states[best.epoch - 1]))
    gammas = [layer.gamma.item() for _, layer in stocnoise.stochastic_layers(student)]
    assert gammas == pytest.approx([history[best.epoch - 1].gamma] * 2)
    assert all(value.device.type == "cpu" for value in best.state_dict.values())


def test_they_give_what_was_measured() -> None:
    student = tiny.student()
    history = run(student, gamma=0.0)  # no noise: the figures can be had again
    x, y = tiny.data().tensors

    def robust_accuracy() -> float:
        adversarial = BIM(eps=0.05, steps=2)(student.eval(), x, y)
        return (student(adversarial).argmax(1) == y).double().mean().item()

    assert history.best is not None
    assert robust_accuracy() < history.best.robust_accuracy - 0.2
    history.best.restore(student)
    assert robust_accuracy() == pytest.approx(history.best.robust_accuracy, abs=1.5 / len(y))  # batches round otherwise


def epoch(number: int, robust: float | None, accuracy: float | None = 0.5) -> Epoch:
    return Epoch(number, 1.0, None, None, accuracy, robust, None)


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([epoch(1, 0.2), epoch(2, 0.3), epoch(3, 0.1)], 2),
        ([epoch(1, 0.3), epoch(2, 0.3)], 1),
        ([epoch(1, 0.3, 0.6), epoch(2, 0.3, 0.7), epoch(3, 0.3, 0.7)], 2),
        ([epoch(1, 0.0), epoch(2, 0.0, 0.9)], 2),
        ([epoch(1, None, None), epoch(2, None, None)], None),
        ([], None),
    ],
)
def test_of_equals_the_most_accurate_then_the_earliest(epochs: list[Epoch], best: int | None) -> None:
    found = History(epochs).best
    assert (found and found.epoch) == best


def test_without_validation_there_is_none(tmp_path: Path) -> None:
    assert run(tiny.student(), epochs=1, val_loader=None, checkpoint_dir=tmp_path).best is None
    assert "best" not in read(Checkpoints(tmp_path).paths()[-1])


def test_with_ema_it_is_the_trained_student() -> None:
    student, watch = tiny.student(), Watch()
    history = run(student, ema=0.9, callbacks=[watch])
    assert history.best is not None and history.averaged is not None
    kept = without_gamma(history.best.state_dict)
    assert tiny.same(kept, without_gamma(watch.states[history.best.epoch - 1]))
    assert not torch.equal(kept["0.weight"], history.averaged.state_dict()["0.weight"])


class Extra(nn.Flatten):
    """Keeps something that is no tensor."""

    kept: Any = None

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


def test_what_a_module_keeps_beside_tensors_comes_back() -> None:
    student = tiny.student()
    student[6] = Extra()
    student[6].kept = {"seen": [1]}
    history = run(student, epochs=1)
    student[6].kept["seen"].append(2)
    assert history.best is not None
    history.best.restore(student)
    assert student[6].kept == {"seen": [1]}


def test_looking_changes_nothing() -> None:
    class Look(stocnoise.Callback):
        def on_epoch_end(self, run: stocnoise.training.Run) -> None:
            assert run.history.best is not None and run.history.best.state_dict

    watched, alone = tiny.student(), tiny.student()
    histories = run(watched, callbacks=[Look()]), run(alone)
    assert tiny.same(watched.state_dict(), alone.state_dict())
    assert [e.loss for e in histories[0]] == [e.loss for e in histories[1]]


def test_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"checkpoint_every": 1, "resume": True}
    whole = run(tiny.student(), checkpoint_dir=tmp_path / "whole", callbacks=[Watch()], **kept)
    with pytest.raises(KeyboardInterrupt):
        run(tiny.student(), checkpoint_dir=tmp_path / "b", callbacks=[Watch(stop_at=3 * GOOD + 2)], **kept)
    resumed = run(tiny.student(), checkpoint_dir=tmp_path / "b", callbacks=[Watch()], **kept)
    again = run(tiny.student(seed=9), checkpoint_dir=tmp_path / "whole", callbacks=[Watch()], **kept)
    assert whole.best == resumed.best == again.best and whole.best is not None
    for history in (resumed, again):
        assert history.best is not None
        assert tiny.same(history.best.state_dict, whole.best.state_dict)


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """It says which epoch was best, and keeps the weights of better ones that follow."""
    with pytest.raises(KeyboardInterrupt):
        run(tiny.student(), checkpoint_dir=tmp_path, checkpoint_every=1, callbacks=[Watch(stop_at=5)])
    newest = Checkpoints(tmp_path).paths()[-1]
    tree = read(newest)
    del tree["best"]
    tree["history"] = [
        {name: value for name, value in e.items() if name not in ("best", "eps")} for e in tree["history"]
    ]
    tree["history"][0]["val_robust_accuracy"] = 0.0
    write(newest, tree)
    with pytest.raises(KeyboardInterrupt):
        run(tiny.student(), checkpoint_dir=tmp_path, resume=True, checkpoint_every=1, callbacks=[Watch(stop_at=5)])
    student = tiny.student()
    history = run(student, checkpoint_dir=tmp_path, resume=True, callbacks=[Watch()])
    assert history.best is not None and history.best.epoch > 1
    history.best.restore(student)

    tree["history"][0]["val_robust_accuracy"] = 2.0  # none that follows can be better
    write(newest, tree)
    for later in Checkpoints(tmp_path).paths():
        if later != newest:
            later.unlink()
    history = run(tiny.student(), checkpoint_dir=tmp_path, resume=True, callbacks=[Watch()])
    assert history.best is not None and history.best.epoch == 1
    with pytest.raises(ValueError, match="weights of epoch 1 are not here"):
        history.best.restore(student)


def changed(name: str, value: Any) -> Callable[[Any], None]:
    return lambda best: best.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("epoch", 0), r"best\.epoch must be a whole number from 1"),
        (changed("model", [1]), r"best\.model must be"),
        (changed("weights", 3), "best.*weights.* is not known"),
        (lambda best: best["model"].update({"0.weight": torch.zeros(2)}), r"another shape of 0\.weight"),
        (lambda best: best["model"].pop("0.weight"), r"another model: it lacks 0\.weight"),
    ],
)
def test_a_checkpoint_with_another_best_is_refused(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    run(tiny.student(), epochs=1, checkpoint_dir=tmp_path)
    newest = Checkpoints(tmp_path).paths()[-1]
    tree = read(newest)
    change(tree["best"])
    write(newest, tree)
    student = tiny.student(seed=9)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        run(student, epochs=1, checkpoint_dir=tmp_path, resume=True)
    assert tiny.same(student.state_dict(), before)


def test_another_model_is_refused_untouched() -> None:
    history = run(tiny.student(), epochs=1)
    other = tiny.student(width=5)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert history.best is not None
    with pytest.raises(ValueError, match=r"another model.*another shape of 0\.weight"):
        history.best.restore(other)
    assert tiny.same(other.state_dict(), before)


def test_the_best_epoch_is_marked() -> None:
    pytest.importorskip("matplotlib")
    history = run(tiny.student(), epochs=2)
    assert history.best is not None
    number = history.best.epoch
    assert [e["epoch"] for e in history.to_dict() if e["best"]] == [number]
    assert f"{number} (best)" in history._repr_html_()
    (star,) = history.plot().axes[0].collections
    assert star.get_offsets().tolist() == [[number, pytest.approx(history.best.robust_accuracy)]]
    figures = History.from_dict(history.to_dict())
    assert figures.best == history.best
    with pytest.raises(ValueError, match="not here"):
        _ = figures.best.state_dict


def test_an_attack_that_leaves_its_ball_cannot_validate() -> None:
    attack = stocnoise.PGD.single_step(0.05)
    with pytest.raises(ValueError, match=r"val_attack.*PGD\(eps=…\)"):
        run(tiny.student(), attack=attack)
    history = run(tiny.student(), epochs=1, attack=attack, val_attack=BIM(eps=0.05))
    assert history.best is not None
    assert run(tiny.student(), epochs=1, attack=attack, val_loader=None).best is None
