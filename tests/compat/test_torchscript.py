"""TorchScript: a student is traced; scripted it is refused in our words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stocnoise


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_student_is_not_scripted_but_what_revert_gives_is() -> None:
    student = stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    with pytest.raises(stocnoise.ScriptedModelError, match=r"StocReLUEMA cannot be scripted.*torch\.export.*revert"):
        torch.jit.script(student)
    x = torch.randn(2, 3)
    with stocnoise.deterministic(student):
        assert torch.equal(torch.jit.script(stocnoise.revert(student))(x), student(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_student_is_traced() -> None:
    student = stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    student(torch.randn(4, 3))
    traced = torch.jit.trace(student.eval(), torch.randn(2, 3), check_trace=False)
    assert "stocnoise::stoc_act" in str(traced.inlined_graph)
