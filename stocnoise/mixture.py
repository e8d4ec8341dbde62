"""An accurate teacher beside a robust student: one model of two, whose probabilities are mixed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.checks import check_model, check_number
from stocnoise.predictors import Predictor, one_draw
from stocnoise.tasks import Task, TaskLike, as_task

# By how much, in the logarithm of a probability, a margin must be wider than needed, lest rounding decides.
_ROUNDING = 1e-5

SCALES = (1e-6, 1e6)
"""The range of k and T: beyond it float32 overflows, or nothing is left of a model."""


@dataclass(frozen=True)
class Blend:
    """The numbers of a mixture, log(a·softmax(k·z_student) + (1−a)·softmax(z_teacher/T)).

    Args:
        weight: a in [½, 1), the share of the student.
        scale: k > 0; a large one makes the student sure wherever it leans to a class at all.
        temperature: T > 0; a small one makes the teacher sure.

    Example:
        >>> mixture = stocnoise.mix(student, model)
        >>> mixture.blend = stocnoise.Blend(weight=0.6, scale=2.0)
    """

    weight: float = 0.75
    scale: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_number(field.name, value := getattr(self, field.name), above=0)
            if field.name != "weight" and not SCALES[0] <= value <= SCALES[1]:
                raise ValueError(f"{field.name} must lie in [{SCALES[0]:g}, {SCALES[1]:g}], not {value}")
            object.__setattr__(self, field.name, float(value))  # a plain one, which JSON takes
        if not 0.5 <= self.weight < 1:
            raise ValueError(f"weight must lie in [0.5, 1), not {self.weight}: the student has the larger share")

    def mixed(self, student: Tensor, teacher: Tensor) -> Tensor:
        """log(a·softmax(k·z_student) + (1−a)·softmax(z_teacher/T)) of logits (B, C, …), without leaving the logs."""
        teachers = (teacher / self.temperature).log_softmax(1) + math.log1p(-self.weight)
        return torch.logaddexp(self._students(student) + math.log(self.weight), teachers)

    def settled(self, student: Tensor) -> Tensor:
        """(B, C + 1, …): log softmax(k·z_student), and one class more, the largest where a teacher could decide."""
        own = self._students(student)
        second = own.topk(2, dim=1).values[:, 1:]
        needed = torch.full_like(second, math.log1p(-self.weight) - math.log(self.weight))
        return torch.cat([own, torch.logaddexp(second, needed) + _ROUNDING], 1)

    def _students(self, logits: Tensor) -> Tensor:
        return (self.scale * logits).log_softmax(1)


class Mixture(Predictor):
    """log(a·softmax(k·z_student) + (1−a)·softmax(z_teacher/T)): the logits of a mixture; see `mix`.

    `blend` holds a, k and T and may be set; it is in the state as one float64 tensor. The mixture is made to be used,
    not trained: `train()` and `eval()` are for the student, and the teacher stays in eval mode.

    Example:
        >>> stocnoise.mix(student, model, weight=0.6)(images).exp().sum(1).round().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, blend: Blend, task: TaskLike = "multiclass") -> None:
        super().__init__()
        check_model("student", student)
        check_model("teacher", teacher)
        if not isinstance(blend, Blend):
            raise TypeError(f"blend must be a stocnoise.Blend, such as Blend(weight=0.75), not {blend!r}")
        self.student, self.teacher, self.blend, self.task = student, teacher, blend, _of_classes(task)
        self.training = student.training
        if teacher.training:
            teacher.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        student, teacher = (self._logits(half, *args, **kwargs) for half in (self.student, self.teacher))
        if student.shape != teacher.shape:
            raise ValueError(
                f"the student answers with shape {tuple(student.shape)} and the teacher with {tuple(teacher.shape)}: "
                "a mixture is of two models of the same classes"
            )
        return self.blend.mixed(student, teacher)

    def _logits(self, half: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.task.read(half(*args, **kwargs))
        self.task.check(logits, None)
        return logits

    def train(self, mode: bool = True) -> Mixture:
        self.training = mode
        self.student.train(mode)
        return self

    def one_draw(self) -> nn.Module:
        """With single draws of a student, or a teacher, that is averaged."""
        student, teacher = one_draw(self.student), one_draw(self.teacher)
        if student is self.student and teacher is self.teacher:
            return self
        return Mixture(student, teacher, self.blend, self.task)

    def surrogates(self) -> dict[str, nn.Module]:
        """The mixture with k = T = 1, whose softmaxes do not saturate (Bai et al.), and each half alone."""
        plain = Blend(self.blend.weight)
        smooth = {} if plain == self.blend else {"k = T = 1": Mixture(self.student, self.teacher, plain, self.task)}
        return {**smooth, "student alone": self.student, "teacher alone": self.teacher}

    def margin_bound(self) -> MarginBound:
        """The model whose robust accuracy is a lower bound of the mixture's: see `MarginBound`."""
        return MarginBound(self)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(dataclasses.astuple(self.blend), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if not isinstance(state, Tensor) or state.shape != (len(dataclasses.fields(Blend)),):
            raise ValueError(f"state must be a tensor of a, k and T, as get_extra_state gives it, not {state!r}")
        self.blend = Blend(*state.tolist())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in dataclasses.asdict(self.blend).items())


class MarginBound(Predictor):
    """The student of a mixture, where no teacher whatever could overrule it: elsewhere the answer is class C, none.

    With p = softmax(k·z_student), p_(1) ≥ p_(2) the two largest and c the class of the first, the mixture answers c for
    every teacher if p_(1) − p_(2) > (1−a)/a. Proof: for any q in the simplex and any j ≠ c

        [a·p_c + (1−a)·q_c] − [a·p_j + (1−a)·q_j] = a·(p_c − p_j) + (1−a)·(q_c − q_j) ≥ a·(p_(1) − p_(2)) − (1−a) > 0,

    as p_j ≤ p_(2) and q_c − q_j ≥ −1. It is tight: at p_(1) − p_(2) < (1−a)/a a teacher sure of the second class wins.
    No margin exceeds 1 = (1−a)/a at a = ½.

    So where this model is right on every input of a ball, the mixture is: its robust accuracy is a lower bound of the
    mixture's. It is asked of the student alone, and as an attack finds it, it is as true as that attack is strong:
    `evaluate(mixture.margin_bound(), …)`, or `evaluate(mixture, attacks="strongest")`, which says both figures.

    Its output is (B, C + 1, …): log p_j, and log(p_(2) + (1−a)/a) for the class of no answer. Margins within rounding
    of the limit count as too small.

    Example:
        >>> stocnoise.mix(student, model).margin_bound()(images).shape
        torch.Size([4, 11])
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        if not isinstance(mixture, Mixture):
            raise TypeError(f"mixture must be what stocnoise.mix makes, not a {type(mixture).__name__}")
        self.student, self.blend, self.task = mixture.student, mixture.blend, mixture.task
        self.training = mixture.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.task.read(self.student(*args, **kwargs))
        self.task.check(logits, None)
        return self.blend.settled(logits)

    def surrogates(self) -> dict[str, nn.Module]:
        return {"student alone": self.student}


def mix(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float = 0.75,
    scale: float = 1.0,
    temperature: float = 1.0,
    task: TaskLike = "multiclass",
) -> Mixture:
    """log(a·softmax(k·z_student) + (1−a)·softmax(z_teacher/T)): an accurate teacher beside a robust student.

    The teacher decides only where the student's margin is at most (1−a)/a (see `MarginBound`). It has an effect where
    the student is surer when it is right, attacked or not, than when it is wrong. `fit_mixture` chooses the numbers;
    these stand until then. Neither model is copied; a teacher in training mode is put in eval mode.

    Args:
        student: the robust half, stochastic or not: class logits (B, C), or (B, C, H, W) for "segmentation". What is
            deployed: one draw, or `evaluation.Averaged(student, samples)`.
        teacher: the accurate half, with the same classes and inputs: each half may be `normalized` in its own way.
        weight: a in [½, 1), the share of the student.
        scale: k > 0, by which the student's logits are multiplied.
        temperature: T > 0, by which the teacher's are divided.
        task: "multiclass" or "segmentation".

    Raises:
        ValueError: a number is out of its range, or the task is none of classes.

    Source: Bai, Anderson, Kim & Sojoudi, SIAM J. Math. Data Sci. 2024; Bai, Zhou, Patel & Sojoudi, TMLR 2024
    (MixedNUTS).

    Example:
        >>> mixture = stocnoise.mix(student, model, weight=0.6)
        >>> logits = mixture(images)
    """
    return Mixture(student, teacher, Blend(weight, scale, temperature), task)


def _of_classes(task: TaskLike) -> Task:
    found = as_task(task)
    if found.name not in ("multiclass", "segmentation"):
        raise ValueError(
            f"a mixture is of the probabilities of classes, task='multiclass' or 'segmentation': task={found} has none"
        )
    if found.output is not None:
        raise ValueError("the halves of a mixture must return their logits themselves: wrap a model that does not")
    return found
