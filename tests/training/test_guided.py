"""A teacher in the loss: the distances by hand, on the passes that were made anyway, and the teacher as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import MART, PGD, Averaged, Guided, Learn2Perturb, Step, StocL2P, Trades
from stocnoise.errors import CheckpointError, NormalizationWarning
from stocnoise.tasks import Task, as_task
from stocnoise.training.checkpoints import Checkpoints, read
from stocnoise.training.divergence import kl_divergence, squared_distance
from stocnoise.training.step import TaskLoss

ATTACK = PGD(eps=0.1, steps=2)


def network(outputs: int = 3, seed: int = 0, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def plain(seed: int = 1, width: int = 4) -> nn.Sequential:
    """A teacher like `tiny.student`, without noise."""
    return tiny.student(lambda channels, activation: nn.ReLU(), seed=seed, width=width)


def step(model: nn.Module, task: Task | None = None, y: Tensor | None = None, **settings: Any) -> Step:
    x, labels = tiny.data(8).tensors
    if task is not None:
        settings |= {"task": task, "criterion": TaskLoss(task), "attack": replace(ATTACK, task=task)}
    return Step(model, x.double(), labels if y is None else y, **({"attack": ATTACK} | settings))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@contextmanager
def training_passes(model: nn.Module) -> Iterator[list[int]]:
    """The rows of each pass in training mode."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, x: rows.append(len(x[0])) if module.training else None)
    yield rows
    handle.remove()


def by_hand(on: str, student: nn.Module, teacher: nn.Module, attacked: Tensor, x: Tensor, t: float = 1.0) -> Tensor:
    if on == "features":
        return (student[:3](attacked) - teacher[:3](x)).square().sum(1).mean()
    z, goal = student(attacked), teacher(x)
    if on == "logits":
        return ((z - goal) ** 2).sum(1).mean()
    p, q = (goal / t).softmax(1), (z / t).softmax(1)
    return t**2 * (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize("objective", ["at", "trades", "mixed", "mart", "averaged", Learn2Perturb(adversarial_after=0)])
@pytest.mark.parametrize("on", ["logits", "probabilities", "features"])
def test_the_distance_is_added_on_the_passes_that_are_made_anyway(on: Any, objective: Any) -> None:
    """In float64, value and gradient; no pass of the student more than the objective makes alone."""
    student, teacher = network(), network(seed=1)
    temperature = 3.0 if on == "probabilities" else 1.0
    torch.manual_seed(5)
    alone = step(student)
    inner = stocnoise.training.objectives.make_objective(objective)
    with training_passes(student) as rows:
        expected = inner(alone)
        before = list(rows)
        torch.manual_seed(5)
        made = step(student)
        loss = Guided(teacher, weight=0.7, on=on, objective=objective, temperature=temperature)(made)
        assert rows[len(before) :] == before
    attacked = made.images[-1]
    assert torch.equal(attacked, alone.images[-1]) and not torch.equal(attacked, made.x)
    apart = by_hand(on, student, teacher, attacked, made.x, temperature)
    torch.testing.assert_close(loss, expected + 0.7 * apart)
    weights = list(student.parameters())
    ours, theirs = (torch.autograd.grad(value, weights) for value in (loss, expected + 0.7 * apart))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert hooks(student) == hooks(teacher) == 0


def test_an_objective_of_clean_images_is_guided_there() -> None:
    student, teacher = network(), network(seed=1)
    made = step(student)
    loss = Guided(teacher, 1.0, objective="clean")(made)
    expected = F.cross_entropy(student(made.x), made.y) + by_hand("logits", student, teacher, made.x, made.x)
    torch.testing.assert_close(loss, expected)


def test_an_objective_of_ones_own_is_guided_where_it_attacks() -> None:
    student, teacher = network(), network(seed=1)

    def own(step: Step) -> Tensor:
        step.logits(step.x)
        for _ in range(2):
            step.logits(step.adversarial())
        return torch.zeros((), dtype=torch.float64)

    made = step(student)
    loss = Guided(teacher, 1.0, objective=own)(made)
    distances = [squared_distance(part.output, teacher(made.x)).mean() for part in made.passes[1:]]
    torch.testing.assert_close(loss, torch.stack(distances).mean())
    with pytest.raises(ValueError, match="found no pass"):
        Guided(teacher, 1.0, objective=lambda step: torch.zeros(()))(made)


def test_guides_within_guides() -> None:
    """Two teachers, one by its features."""
    student, first, second = network(), network(seed=1), network(seed=2)
    made = step(student)
    loss = Guided(first, 0.5, on="features", objective=Guided(second, 0.25, on="features"))(made)
    attacked = made.images[0]
    expected = F.cross_entropy(student(attacked), made.y)
    expected = expected + 0.5 * by_hand("features", student, first, attacked, made.x)
    expected = expected + 0.25 * by_hand("features", student, second, attacked, made.x)
    torch.testing.assert_close(loss, expected)
    assert hooks(student) == 0


@pytest.mark.parametrize("name", ["binary", "multilabel"])
def test_probabilities_of_labels_that_are_questions_of_their_own(name: Any) -> None:
    """T² KL between Bernoullis, the mean over the labels."""
    task = as_task(name)
    outputs = 1 if name == "binary" else 3
    student, teacher = network(outputs), network(outputs, seed=1)
    y = torch.tensor([0.0, 1.0] * 4, dtype=torch.float64)
    made = step(student, task, y if name == "binary" else y[:, None].repeat(1, 3))
    loss = Guided(teacher, 1.0, on="probabilities", temperature=2.0)(made)
    attacked = made.images[0]
    p, q = (teacher(made.x) / 2).sigmoid(), (student(attacked) / 2).sigmoid()
    apart = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(loss, made.loss(student(attacked)) + apart)


def test_probabilities_need_classes() -> None:
    task = Task(lambda o, t: (o - t).square().mean(1), lambda o, t: o[:, 0] > t[:, 0])
    y = torch.rand(8, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"on='probabilities'.* needs a task with classes"):
        Guided(network(seed=1), on="probabilities")(step(network(), task, y))
    assert Guided(network(seed=1))(step(network(), task, y)).isfinite()


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2, 2)])
def test_distances_have_the_gradient_of_finite_differences(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z, goal = torch.randn(2, *shape, dtype=torch.float64)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: squared_distance(z, goal), z)
    expected = (z - goal).square().reshape(4, shape[1] if len(shape) > 1 else 1, -1).sum(1).mean(1)
    torch.testing.assert_close(squared_distance(z, goal), expected)
    if len(shape) > 1:
        assert torch.autograd.gradcheck(lambda z: kl_divergence(z / 3, (goal / 3).log_softmax(1)), z)


# Without labels


@pytest.mark.parametrize("on", ["logits", "probabilities", "features"])
def test_without_an_objective_the_attack_maximises_the_distance_and_labels_count_for_nothing(on: Any) -> None:
    student, teacher = network(), network(seed=1)
    y = tiny.data(8).tensors[1]
    losses, images = [], []
    for labels in (y, (y + 1) % 3):
        torch.manual_seed(3)
        made = step(student, y=labels, attack=PGD(eps=0.1, steps=10))
        losses.append(Guided(teacher, 0.5, on=on, objective=None)(made))
        images.append(made.images[0])
    assert torch.equal(losses[0], losses[1]) and torch.equal(images[0], images[1])
    torch.testing.assert_close(losses[0], 0.5 * by_hand(on, student, teacher, images[0], made.x))
    assert (images[0] - made.x).abs().max() <= 0.1 + 1e-9
    found = by_hand(on, student, teacher, images[0], made.x)
    noise = 0.1 * torch.randn_like(made.x).sign()
    for beside in (made.x, (made.x + noise).clamp(0, 1), step(student).adversarial()):
        assert found > by_hand(on, student, teacher, beside, made.x)
    assert made.correct["adversarial"][1] == 8  # figures are still of the labels
    assert hooks(student) == hooks(teacher) == 0
    assert student.training


def test_an_attack_on_features_is_in_eval_mode_and_stops_for_no_label() -> None:
    """Dropout and BatchNorm as in every attack; features are no classes, by which `stop_early` would stop."""
    student, teacher = tiny.student(gamma=0.5).train(), plain()
    stocnoise.calibrate(student, [tiny.data(24).tensors[0]])
    modes = []
    student[7].register_forward_pre_hook(lambda module, x: modes.append(module.training))
    made = Step(student, *tiny.data(8).tensors, PGD(eps=0.1, steps=3, stop_early=True))
    Guided(teacher, 1.0, on="features", objective=None)(made)
    assert modes == [False] * 3 + [True]
    assert ((made.images[0] - made.x).abs().amax((1, 2, 3)) > 0.09).all()


def test_a_run_without_labels_leaves_the_classifier_alone() -> None:
    student = tiny.student(seed=3)
    before = copy.deepcopy(student.state_dict())
    tiny.finetune(student, objective=Guided(plain(), on="features", objective=None), epochs=1)
    after = student.state_dict()
    assert torch.equal(before["7.weight"], after["7.weight"]) and not torch.equal(before["0.weight"], after["0.weight"])


def test_it_needs_a_random_start() -> None:
    made = step(network(), attack=stocnoise.BIM(eps=0.1))
    with pytest.raises(ValueError, match=r"objective=None\) needs an attack PGD\(random_start=True\)"):
        Guided(network(seed=1), objective=None)(made)


# The teacher


class Watched(nn.Module):
    """A teacher that notes how it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        answer = self.model(x)
        self.asked.append((self.training, torch.is_grad_enabled(), answer.dtype))
        return answer


@pytest.mark.parametrize("on", ["logits", "features"])
def test_the_teacher_is_left_as_it_was(on: Any) -> None:
    teacher = Watched(plain().train())
    teacher.model[1].eval()
    state = copy.deepcopy(teacher.state_dict())
    modes = [module.training for module in teacher.modules()]
    student = tiny.student()
    names = list(student.state_dict())
    tiny.finetune(student, objective=Guided(teacher, 1.0, on=on))
    assert set(teacher.asked) == {(False, False, torch.float32)}
    assert len(teacher.asked) == 1 + 6  # the trial, then once a step
    assert tiny.same(teacher.state_dict(), state)
    assert [module.training for module in teacher.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert list(student.state_dict()) == names
    assert hooks(teacher) == hooks(student) == 0


def test_a_noisy_teacher_keeps_its_noise() -> None:
    teacher = tiny.student(seed=1, gamma=1.0)
    stocnoise.calibrate(teacher, [tiny.data(24).tensors[0]])
    sigma = teacher[2].sigma.clone()
    student, losses = tiny.student(gamma=0.0), []
    for seed in (0, 1):
        made = Step(student.eval(), *tiny.data(8).tensors, PGD(eps=0.0, steps=1))
        torch.manual_seed(seed)
        losses.append(Guided(teacher, 1.0, objective="clean")(made))
    assert losses[0] != losses[1]
    assert torch.equal(teacher[2].sigma, sigma)


def test_mixed_precision_is_the_teachers_too() -> None:
    teacher = Watched(plain())
    for precision, dtype in (("bf16", torch.bfloat16), ("no", torch.float32)):
        teacher.asked.clear()
        for on in ("logits", "features"):
            history = tiny.finetune(
                tiny.student(), objective=Guided(teacher, 1.0, on=on), precision=precision, epochs=1
            )
            assert history[-1].loss > 0
        assert {asked[2] for asked in teacher.asked[1:4]} == {dtype}


def test_a_teacher_of_another_precision_is_asked_as_a_copy() -> None:
    teacher = network(seed=1).float()
    made = step(network())
    loss = Guided(teacher, 1.0)(made)
    assert loss.dtype == torch.float64 and {p.dtype for p in teacher.parameters()} == {torch.float32}
    wide = copy.deepcopy(teacher).double()
    torch.testing.assert_close(
        loss, made.loss(made.passes[0].output) + squared_distance(made.passes[0].output, wide(made.x)).mean()
    )


def test_further_inputs_and_output_are_the_teachers_too() -> None:
    class Scaled(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = network(seed=seed).float()

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"other": x, "scores": self.net(x * scale[:, None, None, None])}

    x, y = tiny.data(8).tensors
    scale = torch.linspace(0.1, 1.0, 8)
    loader = DataLoader(TensorDataset(x, y, scale), 8)
    for on in ("logits", "features"):
        student, teacher = Scaled(0), Scaled(1)
        before = copy.deepcopy(student)
        history = tiny.finetune(
            student,
            loader,
            batch=(0, 1, 2),
            output="scores",
            objective=Guided(teacher, 1.0, on=on, objective="clean"),
            epochs=1,
        )
        with torch.no_grad():
            mine, theirs = (
                model.net[: 4 if on == "logits" else 3](x * scale[:, None, None, None]) for model in (before, teacher)
            )
            expected = F.cross_entropy(before(x, scale)["scores"], y) + (mine - theirs).square().sum(1).mean()
        assert history[-1].loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "teacher", "words"),
    [
        ({}, lambda: plain()[:7], r"outputs have shape \(8, 3\) and the teacher's \(8, 16\)"),
        ({"on": "features"}, lambda: plain(width=8), r"features have shape \(8, 16\).* \(8, 32\)"),
        ({"on": "features"}, lambda: plain()[:7], "no Linear layer"),
        ({"on": "features", "layer": "8"}, lambda: plain(), "layer='8' is no layer of"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_any_step(
    settings: dict[str, Any], teacher: Callable[[], nn.Module], words: str
) -> None:
    student = tiny.student()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=words):
        tiny.finetune(student, objective=Guided(teacher(), **settings))
    assert tiny.same(student.state_dict(), before)
    assert hooks(student) == 0


def test_a_teacher_that_shares_weights_with_the_student_is_refused() -> None:
    student = tiny.student()
    for teacher in (student, nn.Sequential(student[0], *plain()[1:])):
        with pytest.raises(ValueError, match=r"share weights \(0.weight\).*deepcopy"):
            tiny.finetune(student, objective=Guided(teacher))


def test_a_teacher_of_normalised_images_that_is_given_pixels_is_warned_of() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    teacher.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # type: ignore[assignment]
    data = [(torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]))]
    student = stocnoise.normalized(copy.deepcopy(teacher))
    with pytest.warns(NormalizationWarning, match="Sequential"):
        tiny.finetune(student, data, objective=Guided(teacher), epochs=1)


def test_another_layer_by_name_or_function() -> None:
    student, teacher = network(), network(seed=1)
    for layer in ("2", lambda model: model[2]):
        made = step(student)
        loss = Guided(teacher, 1.0, on="features", layer=layer, objective="clean")(made)
        apart = (student[:2](made.x) - teacher[:2](made.x)).square().sum(1).mean()
        torch.testing.assert_close(loss, F.cross_entropy(student(made.x), made.y) + apart)


# In a run


def test_a_checkpoint_knows_the_teacher_by_its_weights_and_does_not_print_it(tmp_path: Any) -> None:
    teacher = plain()

    def run(guide: Guided) -> None:
        tiny.finetune(tiny.student(), objective=guide, checkpoint_dir=tmp_path, resume=True)

    run(Guided(teacher, 0.5))
    said = read(Checkpoints(tmp_path).paths()[-1])["settings"]["objective"]
    assert said.startswith("Guided(Sequential ") and len(said) < 120 and "Conv2d" not in said
    assert "weight=0.5, on='logits', objective=stocnoise.training.objectives.at" in said
    run(Guided(copy.deepcopy(teacher).eval(), 0.5, objective="at"))  # the same weights are the same teacher
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[7].bias[0] += 1e-3
    normalised = stocnoise.normalized(teacher, 0.5, 0.5)
    assert repr(Guided(normalised)) != repr(Guided(stocnoise.normalized(teacher, 0.5, 0.2)))
    for guide in (
        Guided(other, 0.5),
        Guided(normalised, 0.5),
        Guided(teacher, 0.6),
        Guided(teacher, 0.5, objective="mixed"),
    ):
        with pytest.raises(CheckpointError, match="objective"):
            run(guide)


def test_interrupted_it_resumes_bit_for_bit(tmp_path: Any) -> None:
    class Stop(stocnoise.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == 4 and stop:
                raise KeyboardInterrupt

    noisy = tiny.student(seed=1, gamma=0.5)
    stocnoise.calibrate(noisy, [tiny.data(24).tensors[0]])

    def run(folder: str) -> nn.Module:
        student = tiny.student()
        guide = Guided(noisy, on="features", objective=Averaged())
        given = {"checkpoint_dir": tmp_path / folder, "checkpoint_every": 1, "resume": True, "callbacks": [Stop()]}
        tiny.finetune(student, objective=guide, **given)
        return student

    stop = False
    whole = run("whole")
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run("interrupted")
    stop = False
    assert tiny.same(run("interrupted").state_dict(), whole.state_dict())


def test_learn2perturb_within_a_guide_keeps_its_schedule() -> None:
    student = tiny.student(StocL2P)
    gammas = []

    class Note(stocnoise.Callback):
        def on_step_end(self, run: Any) -> None:
            gammas.append(float(run.student[2].gamma))

    guided = Guided(plain(), objective=Learn2Perturb(noise_after=1, adversarial_after=1))
    tiny.finetune(student, objective=guided, callbacks=[Note()])
    assert gammas == [0.0] * 3 + [1.0] * 3
    with pytest.raises(ValueError, match="Learn2Perturb sets gamma itself"):
        tiny.finetune(student, objective=guided, gamma=0.1)


def test_accumulated_halves_are_the_whole_batch() -> None:
    """Of a model without statistics, in float64; the attack starts at random, so of clean images."""
    x, y = tiny.data(16).tensors
    trained = []
    for size, accumulate in ((16, 1), (8, 2)):
        student, teacher = network(), network(seed=1)
        loader = DataLoader(TensorDataset(x.double(), y), size, shuffle=False)
        guide = Guided(teacher, 1.0, on="features", objective="clean")
        tiny.finetune(student, loader, objective=guide, accumulate=accumulate, epochs=1, gamma=None)
        trained.append(student.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value)


def test_an_average_of_the_weights_gets_statistics_of_its_own() -> None:
    """The objective's passes of a copy of the student, without a warning."""
    guide = Guided(plain(), on="features", objective=Trades())
    history = tiny.finetune(tiny.student(), objective=guide, ema=0.5)
    assert history.averaged is not None and history.averaged[2].sigma.abs().sum() > 0


def test_a_last_batch_of_one_row_is_refused_before_it_is_met() -> None:
    for guide in (Guided(plain()), Guided(plain(), objective=None)):
        student = tiny.student()
        student[4] = nn.BatchNorm1d(4)
        student[3] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        student[5] = nn.ReLU()
        student[7] = nn.Linear(4, 3)
        with pytest.raises(ValueError, match="one row"):
            tiny.finetune(student, tiny.loader(25), objective=guide)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [{"on": "features"}, {"on": "features", "objective": None}, {"on": "logits"}])
def test_a_compiled_run_matches_an_eager_one(guide: dict[str, Any]) -> None:
    """Of models that PyTorch has no reason to compile anew for training; by an attack that stays at x."""
    trained = []
    for compiled in (False, True):
        student, teacher = network().float(), network(seed=1).float()
        attack = PGD(eps=1e-6, steps=1)
        tiny.finetune(
            student, objective=Guided(teacher, **guide), attack=attack, compile=compiled, val_loader=tiny.loader()
        )
        trained.append(student.state_dict())
        assert hooks(student) == 0 and student._compiled_call_impl is None
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": -1}, "weight"),
        ({"temperature": 0}, "temperature"),
        ({"on": "logit"}, "'logits', 'probabilities' or 'features'"),
        ({"temperature": 2.0}, "temperature is for on='probabilities'"),
        ({"layer": "fc"}, "layer is for on='features'"),
        ({"on": "features", "layer": 3}, "layer must be a layer's name"),
        ({"objective": "lbgat"}, "objective must be one of"),
        ({"objective": MART}, "an instance"),
    ],
)
def test_settings_that_do_not_belong_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Guided(network(), **settings)


def test_the_teacher_is_a_module() -> None:
    with pytest.raises(TypeError, match="teacher must be"):
        Guided("resnet18")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"an instance, such as Guided\(\)"):
        tiny.finetune(tiny.student(), objective=Guided)  # type: ignore[arg-type]
