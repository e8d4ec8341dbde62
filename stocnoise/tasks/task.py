"""What a model answers, what its loss is, and when an answer is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stocnoise.checks import check_choice, check_function, check_text, optional

Link = Literal["softmax", "sigmoid"]

OutputReader = str | int | Callable[[Any], Tensor]
"""A key or attribute of what a model returns, an index into it, or a function that makes the output of it."""


def check_output(output: Any) -> None:
    """ValueError for what cannot say which part of an answer is the output."""
    named = isinstance(output, str | int) and not isinstance(output, bool)
    if not (output is None or named or (callable(output) and not isinstance(output, type))):
        raise ValueError(f"output must be a key, an index or a function, not {output!r}")


def unchanged(output: Tensor) -> Tensor:
    """The output itself."""
    return output


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a model: `loss` says how far off an output is, `wrong` whether it is.

    Attacks raise the loss of each row, training lowers its mean over rows, and a row's answer is judged by `wrong`: ASR
    is the share of answers that an attack turns from right to wrong. Draws of a stochastic model are put together by
    `average`.

    Args:
        loss: (output (B, …), target (B, …)) → (B,), differentiable in the output.
        wrong: (output, target) → (B,), a bool, or a share of the row in [0, 1].
        average: outputs of several draws (draws, B, …) → one output (B, …) of the averaged predictor; default the mean.
        probabilities: output → what `predict` averages over draws, of the output's shape; default the output itself.
        classes: probabilities → (B, K, …), those of K classes, from which `predict` takes votes. None: no votes.
        decide: output → the target that it amounts to. None: nothing can be attacked without a target.
        logits: output → (B, K, …), logits of K classes, for TRADES, MART and distillation. None: they refuse.
        margin: (output, target) → (B,), positive where the answer is wrong, and of a gradient that does not vanish.
            None: attacks on the margin (CW, `losses.margin`) refuse the task.
        units: (output, target) → (B, E), whether each of E answers of a row is wrong, NaN where it does not count.
            None: a row is one answer.
        overlaps: (output, target) → (B, K, 2), intersection and union of each class in answers, for the mean IoU.
        read_target: a target as a user gives it → as the functions above take it.
            ValueError where it is no target of this task.
        check: (output, target): ValueError, with the shapes in words, where the two do not belong together.
        one_class: whether an answer is one of the K classes that `classes` tells apart: what a certificate, attacks of
            other libraries and the loss of a mean probability need.
        link: "softmax" or "sigmoid", what makes probabilities of an output. None: neither.
        name: in settings and messages.
        output: what of the model's answer is the output; None takes a tensor as it is, or the attribute `logits`.

    Example:
        Regression with a tolerance:

        >>> def loss(output, target):
        ...     return ((output - target) ** 2).flatten(1).mean(1)
        >>> task = stocnoise.Task(loss, lambda output, target: (output - target).abs().flatten(1).amax(1) > 0.1)
        >>> adversarial = stocnoise.PGD(steps=5, task=task)(student, images, torch.zeros(4, 10))
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    wrong: Callable[[Tensor, Tensor], Tensor]
    average: Callable[[Tensor], Tensor] = lambda outputs: outputs.mean(0)
    probabilities: Callable[[Tensor], Tensor] = unchanged
    classes: Callable[[Tensor], Tensor] | None = None
    decide: Callable[[Tensor], Tensor] | None = None
    logits: Callable[[Tensor], Tensor] | None = None
    margin: Callable[[Tensor, Tensor], Tensor] | None = None
    units: Callable[[Tensor, Tensor], Tensor] | None = None
    overlaps: Callable[[Tensor, Tensor], Tensor] | None = None
    read_target: Callable[[Tensor], Tensor] = lambda target: target
    check: Callable[[Tensor, Tensor | None], None] = lambda output, target: None
    one_class: bool = False
    link: Link | None = None
    name: str = "custom"
    output: OutputReader | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "wrong", "average", "probabilities", "read_target", "check"):
            check_function(name, getattr(self, name), "an output, a target or both: see Task")
        for name in ("classes", "decide", "logits", "margin", "units", "overlaps"):
            optional(check_function, name, getattr(self, name), "an output, a target or both: see Task")
        optional(check_choice, "link", self.link, get_args(Link))
        check_text("name", self.name)
        check_output(self.output)

    @property
    def a_column_a_class(self) -> bool:
        """Whether an answer is one class, and outputs are logits (B, K) of them."""
        return self.one_class and self.link == "softmax"

    def read(self, answer: Any) -> Tensor:
        """The output in what the model returned, in float32 or wider.

        Raises:
            ValueError: there is no tensor where `output` says, or none at all.
        """
        found = _select(answer, self.output)
        if not isinstance(found, Tensor):
            raise ValueError(_no_tensor(answer, found, self.output))
        return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found

    def judge(self, output: Tensor, target: Tensor) -> Tensor:
        """`wrong`, (B,).

        Raises:
            ValueError: it did not give one value for each row.
        """
        wrong = self.wrong(output, target)
        if wrong.shape != (len(output),):
            raise ValueError(f"wrong(output, target) must give one value per row, not shape {tuple(wrong.shape)}")
        return wrong

    def right(self, output: Tensor, target: Tensor) -> Tensor:
        """1 − wrong, (B,): bool where `wrong` is."""
        wrong = self.judge(output, target)
        return ~wrong if wrong.dtype == torch.bool else 1 - wrong

    def __str__(self) -> str:
        return self.name


def _select(answer: Any, output: OutputReader | None) -> Any:
    if output is None:
        return getattr(answer, "logits", answer)
    if callable(output):
        return output(answer)
    if isinstance(output, str) and not isinstance(answer, Mapping):
        return getattr(answer, output, None)
    try:
        return answer[output]
    except (LookupError, TypeError):
        return None


def _no_tensor(answer: Any, found: Any, output: OutputReader | None) -> str:
    if isinstance(answer, Mapping):
        has = f"a {type(answer).__name__} with the keys {', '.join(map(repr, answer))}"
    elif isinstance(answer, list | tuple):
        has = f"a {type(answer).__name__} of {len(answer)}"
    else:
        has = f"a {type(answer).__name__}"
    if output is None:
        return f"the model returns {has}, not a tensor: output= says what to read (a key, an index, a function)"
    return f"output={output!r} finds {type(found).__name__}, not a tensor, in what the model returns, {has}"
