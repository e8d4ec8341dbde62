"""A run that meets NaN stops before its weights do, and says where it began."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn

import stocnoise
from stocnoise import NonFiniteError, Step
from stocnoise.training.checkpoints import Checkpoints, read


class Break(stocnoise.Callback):
    """Puts infinity into a weight after a step."""

    def __init__(self, weight: Tensor, step: int) -> None:
        self.weight = weight
        self.step = step

    def on_step_end(self, run: stocnoise.training.Run) -> None:
        if run.step == self.step:
            with torch.no_grad():
                self.weight[0] = torch.inf


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_names_the_layer_and_the_last_good_checkpoint(tmp_path: Path, precision: str) -> None:
    model = tiny.student()
    good: list[dict[str, Tensor]] = []

    class Keep(stocnoise.Callback):
        def on_checkpoint(self, run: stocnoise.training.Run, path: Path) -> None:
            good.append({name: value.clone() for name, value in model.state_dict().items()})

    callbacks = [Keep(), Break(model[3].weight, step=4)]
    words = r"step 5 of epoch 2.*layer 3 \(Conv2d\), whose weight already held it.*step-000000003"
    with pytest.raises(NonFiniteError, match=words):
        tiny.finetune(model, checkpoint_dir=tmp_path, callbacks=callbacks, precision=precision)
    (last,) = Checkpoints(tmp_path).paths()
    assert tiny.same(read(last)["model"], good[0])


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.exp().exp().exp().exp()).log()


def test_weights_are_from_before_the_step() -> None:
    model = tiny.student()
    model.insert(6, Overflow())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match=r"layer 6 \(Overflow\)\. .* no checkpoint"):
        tiny.finetune(model)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_names_the_module_that_calls_the_function() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.log(x - x.amax() - 1))

    model = tiny.student()
    model.insert(1, Block())
    with pytest.raises(NonFiniteError, match=r"layer 1 \(Block\)"):
        tiny.finetune(model)


def test_names_the_loss_and_the_backward_pass() -> None:
    def infinite(step: Step) -> Tensor:
        return step.loss(step.logits(step.x)[0]) + torch.inf

    with pytest.raises(NonFiniteError, match="the loss: the model's output is finite"):
        tiny.finetune(tiny.student(), objective=infinite)

    def steep(step: Step) -> Tensor:
        (z,) = step.logits(step.x)
        return step.loss(z) + (z - z.detach()).abs().sqrt().sum()

    with pytest.raises(NonFiniteError, match=r"backward pass, at the gradient of 7\.bias"):
        tiny.finetune(tiny.student(), objective=steep)


def test_names_the_images() -> None:
    x, y = tiny.data(8).tensors
    x[3] = torch.nan
    with pytest.raises(NonFiniteError, match="the images themselves"):
        tiny.finetune(tiny.student(), [(x, y)], objective="clean")
