"""A teacher's answers as a goal beside the labels, or in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stocnoise.attacks.features import Features, classifier
from stocnoise.attacks.modes import attack_mode, inner
from stocnoise.attacks.target import Loss, ask
from stocnoise.batches import Batch, Others
from stocnoise.checks import check_choice, check_number
from stocnoise.normalization import warn_if_bare
from stocnoise.tasks import Task
from stocnoise.tasks.task import unchanged
from stocnoise.training.divergence import attack_on, classes_of, kl_divergence, squared_distance
from stocnoise.training.objectives import make_objective
from stocnoise.training.states import is_sharded
from stocnoise.training.step import Objective, Pass, Step, bare
from stocnoise.training.teacher import Teacher
from stocnoise.training.wording import in_words

On = Literal["logits", "probabilities", "features"]
LayerChoice = str | Callable[[nn.Module], nn.Module] | None

# What an attack on features means by an output; no row of them is right or wrong.
_FEATURES = Task(
    loss=squared_distance,
    wrong=lambda output, goal: torch.zeros(len(output), dtype=torch.bool, device=output.device),
    name="features",
    output=unchanged,
)


class Guided:
    """L(step) + β · mean d(f(x'), t(x)): another objective, and the distance from a teacher's answer to clean images.

    | `on` | d | |
    |---|---|---|
    | "logits" | ‖f(x') − t(x)‖² | LBGAT (Cui et al., ICCV 2021), with a teacher that stays as it is |
    | "probabilities" | T² · KL(softmax(t(x)/T) ‖ softmax(f(x')/T)) | distillation (Hinton et al., 2015) |
    | "features" | ‖φ_f(x') − φ_t(x)‖² | FARE (Schlarmann et al., ICML 2024) |

    Norms are sums over dimension 1 (K classes, so K times `nn.MSELoss`, which LBGAT's code takes) and means over
    further ones (pixels). f(x') are the outputs of the training passes which the inner objective makes of adversarial
    images, the mean of d over them where there are several; of clean ones where it makes no others. φ is what the
    classifier is given.

    With `objective=None` there is no label in the loss, β·d alone, and the attack maximises d as well. Targets in the
    batches then serve for figures only. On features the classifier gets no gradient and stays as it is; in several
    processes freeze it (`requires_grad_(False)`).

    The teacher is asked once a step, in eval mode and without gradients, with the batch's further inputs and the run's
    `output` and precision. It stays outside the student and is left as it was; where it is on another device or of
    another dtype, a copy is asked. Its noise, if it has some, stays on. Checkpoints know it by its class and a
    fingerprint of its weights, and are not resumed with another one.

    Args:
        teacher: takes what the student takes.
        weight: β. 1/K is `nn.MSELoss` for "logits" of K classes; "probabilities" bear more, such as 1. Where squares
            are large, a large β diverges.
        on: what of the two answers is compared.
        objective: L: a name or a function of a `Step`, as in `finetune`; None for none.
        temperature: T, for "probabilities".
        layer: for "features", the layer that is given φ: its name in both models, or a function that finds it in
            either. Default what timm's `get_classifier` says, else the last Linear.

    Raises:
        ValueError: settings that do not belong together; before any step of a run, answers of different shapes, a task
            without classes for "probabilities", or a teacher that shares weights with the student.
        NoClassifierError: (a ValueError) there is no such layer, or it is not called once with a row for each input.

    Example:
        >>> objective = stocnoise.Guided(model, weight=0.1)
        >>> step = stocnoise.Step(student, images, labels, attack=stocnoise.PGD(steps=2))
        >>> loss = objective(step)
    """

    def __init__(
        self,
        teacher: nn.Module,
        weight: float = 0.1,
        on: On = "logits",
        objective: str | Objective | None = "at",
        temperature: float = 1.0,
        layer: LayerChoice = None,
    ) -> None:
        check_number("weight", weight)
        check_number("temperature", temperature, above=0)
        check_choice("on", on, get_args(On))
        if temperature != 1 and on != "probabilities":
            raise ValueError(f"temperature is for on='probabilities': on={on!r} knows none")
        if layer is not None and on != "features":
            raise ValueError(f"layer is for on='features': on={on!r} looks at outputs")
        if not (layer is None or isinstance(layer, str) or callable(layer)) or isinstance(layer, type):
            raise ValueError(f"layer must be a layer's name, or a function that finds it in a model, not {layer!r}")
        self.teacher = teacher
        self._asked = Teacher(teacher)
        self.weight = weight
        self.on = on
        self.objective = None if objective is None else make_objective(objective)
        self.temperature = temperature
        self.layer = layer

    def __call__(self, step: Step) -> Tensor:
        student = bare(step.model)
        with step.autocast():
            goal = self._ask(self._asked.beside(student), step.x, step.others, step.task)
        layer = self._layer(student) if self.on == "features" else None
        loss: Tensor | float = 0.0
        before = len(step.passes)
        with nullcontext() if layer is None else step.watching(layer):
            if self.objective is None:
                self._attack(step, goal, layer)
            else:
                loss = self.objective(step)
        answers = [self._answer(made, layer) for made in _guided(step.passes[before:])]
        self._check_alike(answers[0], goal)
        distance = self._distance(step.task)
        apart = torch.stack([distance(answer, goal).mean() for answer in answers]).mean()
        return loss + self.weight * apart

    def check(self, model: nn.Module, batch: Batch, task: Task) -> None:
        """ValueError if the teacher cannot guide `model` on this batch; both make a pass."""
        student = bare(model)
        self._asked.check_apart(student)
        teacher = self._asked.beside(student)
        warn_if_bare(teacher, batch.x)
        goal, answer = (self._ask(one, batch.x, batch.others, task) for one in (teacher, student))
        self._check_alike(answer, goal)
        self._distance(task)
        if self.objective is None and self.on == "features":
            self._check_reached(model)

    def _attack(self, step: Step, goal: Tensor, layer: nn.Module | None) -> None:
        """A training pass of images that lead away from the goal."""
        attack = attack_on(step, self._distance(step.task), "Guided(objective=None)")
        if layer is None:
            adversarial = step.adversarial(attack, goal)
        else:
            attack = replace(attack, task=_FEATURES, output=unchanged)
            adversarial = step.adversarial(attack, goal, model=Features(bare(step.model), layer))
        step.logits(adversarial)

    def _ask(self, model: nn.Module, x: Tensor, others: Others | None, task: Task) -> Tensor:
        """What is compared of one model's answer, (B, …)."""
        if self.on == "features":
            model, task = Features(model, self._layer(model)), _FEATURES
        with attack_mode(model), torch.no_grad():
            return ask(model, x, task, others)

    def _answer(self, made: Pass, layer: nn.Module | None) -> Tensor:
        return made.output if layer is None else _FEATURES.read(made.inputs[layer])

    def _layer(self, model: nn.Module) -> nn.Module:
        if self.layer is None:
            return classifier(model)
        if not isinstance(self.layer, str):
            return self.layer(model)
        found = (dict(model.named_modules()) | dict(inner(model).named_modules())).get(self.layer)
        if found is None:
            raise ValueError(
                f"layer={self.layer!r} is no layer of {type(inner(model)).__name__}: where the names differ, give a "
                "function that finds the layer in a model"
            )
        return found

    def _distance(self, task: Task) -> Loss:
        """(answer, goal) → (B,)."""
        if self.on != "probabilities":
            return squared_distance
        classes, t = classes_of(task, "Guided(on='probabilities')"), self.temperature

        def softened(output: Tensor, goal: Tensor) -> Tensor:
            return t**2 * kl_divergence(classes(output) / t, (classes(goal) / t).log_softmax(1))

        return softened

    def _check_alike(self, answer: Tensor, goal: Tensor) -> None:
        if answer.shape != goal.shape:
            what, advice = "outputs", "guide on='features'"
            if self.on == "features":
                what, advice = "features", "layer= may name layers of one width"
            raise ValueError(
                f"the student's {what} have shape {tuple(answer.shape)} and the teacher's {tuple(goal.shape)}, which "
                f"Guided compares entry by entry: {advice}, or take another teacher"
            )

    def _check_reached(self, model: nn.Module) -> None:
        """ValueError where weights without gradient, those of the classifier, keep processes waiting for each other."""
        if is_sharded(model):
            raise ValueError("Guided(on='features', objective=None) needs whole weights on every process, not FSDP")
        waits = isinstance(model, DistributedDataParallel) and not model.find_unused_parameters
        if waits and any(p.requires_grad for p in self._layer(bare(model)).parameters()):
            raise ValueError(
                "Guided(on='features', objective=None) gives the classifier no gradient, which "
                "DistributedDataParallel waits for: freeze it, student.get_classifier().requires_grad_(False) or the "
                "like, or give an accelerator with find_unused_parameters=True"
            )

    def __repr__(self) -> str:
        """For checkpoints too: a resumed run must have the same teacher."""
        said: dict[str, Any] = {"weight": self.weight, "on": self.on, "objective": self.objective}
        said |= {"temperature": self.temperature} if self.on == "probabilities" else {}
        said |= {} if self.layer is None else {"layer": self.layer}
        return f"Guided({self._asked!r}, {', '.join(f'{name}={in_words(value)}' for name, value in said.items())})"


def _guided(passes: list[Pass]) -> list[Pass]:
    """Those of adversarial images, of clean ones where there are no others."""
    found = [made for made in passes if made.kind == "adversarial"] or [made for made in passes if made.kind == "clean"]
    if not found:
        raise ValueError(
            "Guided found no pass to guide: its objective must make one by step.logits, of step.x or of what "
            "step.adversarial() returns"
        )
    return found


def parts(objective: Objective) -> Iterator[Any]:
    """An objective, then the one that it guides, and so on."""
    yield objective
    if isinstance(objective, Guided) and objective.objective is not None:
        yield from parts(objective.objective)
