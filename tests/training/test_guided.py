"""Distances to a teacher, by hand, on the passes that were made anyway."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from guided_models import hooks, network, plain, step, training_passes
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, Guided, Learn2Perturb, Step
from stocnoise.tasks import Task, as_task
from stocnoise.training.divergence import kl_divergence, squared_distance


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
