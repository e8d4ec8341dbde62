"""Places inside a method that an activation may be called at: loops, comprehensions, functions inside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.conversion_checks import Base, activation_calls, converted, layers, names

X = torch.randn(2, 4, 6, 6)


class Loop(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.conv(x))
        return x


class While(Base):
    def forward(self, x: Tensor) -> Tensor:
        n = 0
        while (n := n + 1) < 4:
            x = self.act(self.conv(x))
        return self.act(x)


class LoopWithBreak(Base):
    def forward(self, x: Tensor) -> Tensor:
        for n in range(5):
            x = F.relu(self.conv(x))
            if n == 2:
                break
        else:
            x = F.silu(x)
        return x


class Comprehension(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.relu(self.conv(part)) for part in (x, -x, 2 * x)]).sum(0)


class TwoComprehensions(Base):
    def forward(self, x: Tensor) -> Tensor:
        many = [self.act(self.conv(y)) for y in [F.relu(part) for part in (x, -x)]]
        return sum({name: F.gelu(y) for name, y in enumerate(many)}.values())


class Generator(Base):
    def forward(self, x: Tensor) -> Tensor:
        return sum(F.relu(self.conv(part)) for part in (x, -x))


class Nested(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return F.relu(self.conv(y))

        return inner(x)


class NestedTwice(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return F.relu(self.conv(y))

        return inner(inner(x)) + inner(x)


class NestedLoop(Base):
    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            for _ in range(2):
                y = F.relu(self.conv(y))
            return y

        return inner(inner(x))


class LocalLambda(Base):
    def forward(self, x: Tensor) -> Tensor:
        step = lambda y: F.relu(self.conv(y))  # noqa: E731
        return step(step(x))


class Closure(Base):
    """What the nested function reads is assigned after it is made."""

    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return F.relu(self.conv(y)) * scale

        count, scale = 0, 2.0
        x = inner(x)
        return x * count


class Checkpointed(Base):
    """Recomputed in the backward pass; the sites must be found again there."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        def part(y: Tensor) -> Tensor:
            for _ in range(2):
                y = F.relu(self.conv(y))
            return y

        return checkpoint(part, self.conv(x), use_reentrant=self.reentrant)


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class TryFinally(Base):
    def forward(self, x: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                x = F.relu(x)
        finally:
            x = F.silu(self.conv(x))
        return x


class Annotated(Base):
    """Annotations that cannot be evaluated stay unevaluated."""

    def forward(self, x: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        def inner(y: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
            return F.relu(self.conv(y))

        return inner(inner(x))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (Loop, 3),
        (While, 4),
        (LoopWithBreak, 3),
        (Comprehension, 3),
        (TwoComprehensions, 6),
        (Generator, 2),
        (Nested, 1),
        (NestedTwice, 3),
        (NestedLoop, 4),
        (LocalLambda, 2),
        (Closure, 1),
        (Checkpointed, 2),
        (CheckpointedReentrant, 2),
        (TryFinally, 2),
        (Annotated, 2),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_call_is_found_and_replaced(model: Callable[[], nn.Module], count: int) -> None:
    teacher = model()
    assert activation_calls(teacher, X) == count
    assert len(names(teacher, X)) == count
    student = converted(teacher, X)
    assert len(layers(student)) == count
