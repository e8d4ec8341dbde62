"""`finetune` trains what a task, a batch and bounds say, to the values of a loop by hand in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_models as tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import BIM, PGD, Step
from stocnoise.errors import NormalizationWarning
from stocnoise.tasks import Task, segmentation
from stocnoise.training.objectives import mixed

LR = 0.1
ATTACK = BIM(eps=0.1, steps=3)


def network(outputs: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def images(n: int = 24) -> Tensor:
    return torch.rand(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def constant(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups)


def trained(model: nn.Module, data: Any, **settings: Any) -> stocnoise.History:
    """One epoch of plain SGD."""
    given: dict[str, Any] = {
        "attack": ATTACK,
        "optimizer": constant,
        "scheduler": lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "lr": LR,
        "weight_decay": 0.0,
    }
    return tiny.finetune(model, data, epochs=1, **(given | settings))


def by_hand(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    rows: Callable[[Tensor, Tensor], Tensor],
    right: Callable[[Tensor, Tensor], Tensor],
) -> tuple[float, float, float]:
    """The same with objective "mixed": mean loss, share right on clean and on adversarial inputs."""
    losses, cleanly, attacked, n = 0.0, 0.0, 0.0, 0
    for x, y in batches:
        z = x.clone()
        for _ in range(3):
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(rows(model(z), y).sum(), z)
            z = torch.clamp(z.detach() + 2.5 * 0.1 / 3 * gradient.sign(), x - 0.1, x + 0.1).clamp(0, 1)
        on_clean, on_adversarial = model(x), model(z)
        loss = (rows(on_clean, y).mean() + rows(on_adversarial, y).mean()) / 2
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        losses += loss.item() * len(x)
        cleanly += right(on_clean, y).double().sum().item()
        attacked += right(on_adversarial, y).double().sum().item()
        n += len(x)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= LR * gradient
    return losses / n, cleanly / n, attacked / n


def bce(z: Tensor, y: Tensor) -> Tensor:
    return -(y * torch.sigmoid(z).log() + (1 - y) * torch.sigmoid(-z).log())


def squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output[:, 0] - target) ** 2) / 2


def off(output: Tensor, target: Tensor) -> Tensor:
    return (output[:, 0] - target).abs() > 0.4


X = images()
TASKS: dict[str, tuple[Any, int, Tensor, Callable[..., Tensor], Callable[..., Tensor]]] = {
    "binary": (
        "binary",
        1,
        (X[:, :1] > X[:, 1:2]).long(),
        lambda z, y: bce(z, y.double()).sum(1),
        lambda z, y: (z[:, 0] > 0) == (y[:, 0] > 0),
    ),
    "binary of rows": (
        "binary",
        1,
        X[:, 0] > X[:, 1],
        lambda z, y: bce(z[:, 0], y.double()),
        lambda z, y: (z[:, 0] > 0) == y,
    ),
    "multilabel": (
        "multilabel",
        3,
        (X[:, :3] > 0.5).int(),
        lambda z, y: bce(z, y.double()).mean(1),
        lambda z, y: ((z > 0) == (y > 0)).double().mean(1),
    ),
    "custom": (Task(squared, off), 1, X.sum(1), squared, lambda z, y: ~off(z, y)),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_as_by_hand(name: str) -> None:
    task, outputs, y, rows, right = TASKS[name]
    model, reference = network(outputs), network(outputs)
    loader = DataLoader(TensorDataset(X, y), batch_size=9)
    history = trained(model, loader, task=task, objective="mixed")
    expected = by_hand(reference, [(x, t) for x, t in loader], rows, right)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-9, atol=1e-12)
    assert (history[0].loss, history[0].accuracy, history[0].robust_accuracy) == pytest.approx(expected, rel=1e-6)


def test_segmentation_trains_as_by_hand() -> None:
    """Pixels of label 255 do not count, neither in the loss nor in the share that is right."""
    task = segmentation(ignore_index=255)
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1).double()
    reference = copy.deepcopy(model)
    x = torch.rand(6, 2, 4, 5, dtype=torch.float64)
    y = torch.randint(3, (6, 4, 5))
    y[torch.rand(6, 4, 5) < 0.3] = 255

    def rows(z: Tensor, t: Tensor) -> Tensor:
        counted = t != 255
        own = z.log_softmax(1).gather(1, t.where(counted, 0)[:, None])[:, 0]
        return -(own * counted).flatten(1).sum(1) / counted.flatten(1).sum(1)

    def right(z: Tensor, t: Tensor) -> Tensor:
        counted = (t != 255).flatten(1)
        return ((z.argmax(1) == t).flatten(1) & counted).sum(1) / counted.sum(1).double()

    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    history = trained(model, loader, task=task, objective="mixed", val_loader=loader)
    expected = by_hand(reference, [(a, b) for a, b in loader], rows, right)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-9, atol=1e-12)
    assert (history[0].loss, history[0].accuracy, history[0].robust_accuracy) == pytest.approx(expected, rel=1e-6)
    assert history[0].val_accuracy == pytest.approx(right(model(x), y).mean().item(), rel=1e-6)


def test_a_criterion_of_ones_own_sees_targets_in_the_shape_of_the_output() -> None:
    y = (X[:, 0] > 0.5).double()
    model, reference = network(1), network(1)
    data = [(X, y)]
    trained(model, data, task="binary", objective="clean", criterion=F.binary_cross_entropy_with_logits)
    loss = bce(reference(X), y[:, None]).mean()
    for parameter, gradient in zip(
        reference.parameters(), torch.autograd.grad(loss, list(reference.parameters())), strict=True
    ):
        parameter.data -= LR * gradient
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["clean", "at", "trades"])
@pytest.mark.parametrize(
    ("outputs", "y", "task", "words"),
    [
        (1, (X[:, :1] > 0.5).double(), "multiclass", r'\(9, 1\).*task="binary"'),
        (1, (X[:, 0] > 0.5).long(), "multiclass", r'\(9, 1\).*task="binary"'),
        (3, X[:, 0], "multiclass", r"float64 and shape \(9,\).*task="),
        (3, (X[:, :3] > 0.5).double(), "multiclass", r'\(9, 3\).*task="multilabel"'),
        (2, torch.full((24,), 2), "multiclass", "label 2 is out of range: the model has 2 classes"),
        (3, (X[:, 0] > 0.5).long(), "binary", r'\(9, 3\).*"multiclass"'),
        (3, (X[:, :2] > 0.5).long(), "multilabel", r"\(9, 2\) do not fit logits of shape \(9, 3\)"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_untouched(
    objective: str, outputs: int, y: Tensor, task: Any, words: str
) -> None:
    model = network(outputs)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        trained(
            model, DataLoader(TensorDataset(X, y), batch_size=9), objective=objective, task=task, attack=PGD(eps=0.1)
        )
    assert tiny.same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("val_loader", "words"),
    [
        ([{"pixels": X, "hidden": X, "labels": X}], "say which is the input"),
        ([(X * 255, (X[:, 0] > 0.5).long())], r"images span"),
        ([(X, X[:, 0])], r"float64 and shape \(24,\)"),
        ([(X, torch.full((24,), 2))], "label 2 is out of range"),
        ([], "val_loader is empty"),
    ],
)
def test_what_validation_cannot_use_is_refused_before_the_first_step(val_loader: Any, words: str) -> None:
    model = network(2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        trained(model, [(X, (X[:, 0] > 0.5).long())], val_loader=val_loader)
    assert tiny.same(model.state_dict(), before)


@pytest.mark.parametrize("objective", ["clean", "at"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        ((X * 255).byte(), r"inputs of type torch\.uint8: divide images by 255"),
        (X.float(), r"inputs of type torch\.float32: convert them to torch\.float64"),
    ],
)
def test_inputs_of_another_type_are_refused_in_words(objective: str, x: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trained(network(2), [(x, (X[:, 0] > 0.5).long())], objective=objective)


def test_labels_of_any_integer_type_are_taken() -> None:
    y = (X[:, 0] > 0.5).long()
    states = []
    for labels in (y, y.int(), y.bool(), y.to(torch.uint8)):
        model = network(2)
        trained(model, [(X, labels)])
        states.append(model.state_dict())
    assert all(tiny.same(states[0], state) for state in states[1:])


class Described(nn.Module):
    """Answers with a dict, and takes a second input: by how much the first is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(2)

    def forward(self, pixels: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        assert scale is None or len(scale) == len(pixels)
        return {"hidden": pixels, "scores": self.net(pixels if scale is None else pixels * scale[:, None])}


@pytest.mark.parametrize("objective", ["clean", "at", "mixed", "trades"])
def test_further_inputs_pass_through_and_output_is_read(objective: str) -> None:
    """As one model of one input, into which the scale is built."""
    y, scale = (X[:, 0] > 0.5).long(), torch.full((24,), 0.5, dtype=torch.float64)
    batches = [{"labels": y[i : i + 8], "pixels": X[i : i + 8], "scale": scale[i : i + 8]} for i in (0, 8, 16)]
    model = Described()
    history = trained(
        model,
        batches,
        batch=("pixels", "labels", "scale"),
        output="scores",
        objective=objective,
        attack=PGD(eps=0.1, steps=2),
        val_loader=batches,
    )

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(2)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.net(pixels * 0.5)

    reference = Scaled()
    plain = [(batch["pixels"], batch["labels"]) for batch in batches]
    expected = trained(reference, plain, objective=objective, attack=PGD(eps=0.1, steps=2), val_loader=plain)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-9, atol=1e-12)
    assert history[0].val_robust_accuracy == expected[0].val_robust_accuracy


@pytest.mark.parametrize("order", [("pixel_values", "labels"), ("labels", "pixel_values")])
def test_dict_batches_need_no_order(order: tuple[str, str]) -> None:
    parts = {"pixel_values": X, "labels": (X[:, 0] > 0.5).long()}
    model, reference = network(2), network(2)
    trained(model, [{name: parts[name] for name in order}])
    trained(reference, [(parts["pixel_values"], parts["labels"])])
    assert tiny.same(model.state_dict(), reference.state_dict())


def test_where_nan_began_is_found_with_further_inputs() -> None:
    model = Described()
    model.net[2].weight.data[0, 0] = float("nan")
    batches = [{"pixels": X, "labels": (X[:, 0] > 0.5).long(), "scale": X[:, 0]}]
    with pytest.raises(stocnoise.NonFiniteError, match=r"net\.2 \(Linear\)"):
        trained(model, batches, batch=("pixels", "labels", "scale"), output="scores", objective="clean")


def test_bounds_and_mask_reach_every_attack() -> None:
    """The run's, the validation's, and another that an objective asks for."""
    x, y = X * 6 - 3, (X[:, 0] > 0.5).long()
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    seen: list[Tensor] = []

    def objective(step: Step) -> Tensor:
        seen.extend([step.adversarial(), step.adversarial(BIM(eps=0.2, steps=1))])
        return mixed(step)

    history = trained(
        network(2), [(x, y)], objective=objective, bounds=(-3.0, 3.0), mask=mask, val_loader=[(x, y)], val_attack="fgsm"
    )
    for found, eps in zip(seen, (0.1, 0.2), strict=True):
        delta = found - x
        assert delta[:, ::2].abs().max().item() == pytest.approx(eps, rel=1e-6)
        assert not delta[:, 1::2].any()
        assert found.abs().max() <= 3
    assert history[0].val_robust_accuracy is not None
    with pytest.raises(ValueError, match=r"outside bounds"):
        trained(network(2), [(x, y)], bounds=(-1.0, 1.0))
    with pytest.raises(ValueError, match="bounds must be"):
        trained(network(2), [(x, y)], bounds=(1.0, -1.0))


def test_an_attack_that_says_its_bounds_keeps_them() -> None:
    x = X * 6 - 3
    attack = BIM(eps=0.1, steps=1, bounds=(-4.0, 4.0))
    trained(network(2), [(x, (X[:, 0] > 0.5).long())], attack=attack, bounds=(0.0, 1.0))


@pytest.mark.parametrize(("name", "attack"), [("pgd", PGD()), ("fgsm", BIM(steps=1)), ("bim", BIM())])
def test_attacks_by_name(name: str, attack: PGD) -> None:
    y = (X[:, 0] > 0.5).long()
    models = [network(2), network(2)]
    for model, chosen in zip(models, (name, attack), strict=True):
        trained(model, [(X, y)], attack=chosen)
    assert tiny.same(models[0].state_dict(), models[1].state_dict())


def test_a_timm_model_given_bare_pixels_is_warned_of_once() -> None:
    model = tiny.student()
    model.pretrained_cfg = {"mean": (0.5,), "std": (0.25,)}  # type: ignore[assignment]
    with pytest.warns(NormalizationWarning, match="pretrained_cfg") as caught:
        tiny.finetune(model)
    assert len(caught) == 1
