"""Whose statistics move in a run, and on what."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import training_models as tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import Callback, GammaSchedule, Step, stochastic_layers


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if "gamma" not in name}


class Modes(Callback):
    """The modules in training mode as an epoch begins and after each of its steps."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def _look(self, run: stocnoise.training.Run) -> None:
        self.seen.append([name for name, module in run.student.named_modules() if module.training])

    on_epoch_begin = on_step_end = _look


def test_what_was_put_into_eval_stays_there() -> None:
    """A frozen backbone: its BatchNorm and its σ, filled before, stand still; the rest moves."""
    model = tiny.student()
    stocnoise.calibrate(model, tiny.loader())
    model.train()
    for module in model[:3]:
        module.eval()
    before, modes = [buffers(module) for module in model], Modes()
    tiny.finetune(model, val_loader=tiny.loader(), callbacks=[modes])
    assert modes.seen == [["", "3", "4", "5", "6", "7"]] * 8
    after = [buffers(module) for module in model]
    assert all(tiny.same(before[i], after[i]) for i in (1, 2))
    assert not any(tiny.same(before[i], after[i]) for i in (4, 5))
    assert [module.training for module in model] == [False] * 3 + [True] * 5


def test_a_student_all_in_eval_trains_as_a_whole() -> None:
    states = []
    for mode in (True, False):
        model = tiny.student().train(mode)
        tiny.finetune(model)
        states.append(model.state_dict())
        assert model.training == mode
    assert tiny.same(*states)


def test_an_empty_sigma_is_filled_in_eval_too() -> None:
    model = tiny.student().train()
    model[:3].eval()
    tiny.finetune(model)
    assert (model[2].sigma > 0).all()
    assert model[1].num_batches_tracked == 0


def test_the_average_has_statistics_of_its_own_weights() -> None:
    """BatchNorm's are means over a pass of the data, σ with α = 1 the STD in the last batch, all in float64 by hand."""
    model = tiny.student(alpha=1.0)
    loader = DataLoader(tiny.data(48), batch_size=16)
    history = tiny.finetune(
        model, loader, objective="clean", gamma=GammaSchedule(0, 0), ema=0.9, epochs=3, lr=0.3, max_grad_norm=1.0
    )
    averaged = history.averaged
    assert averaged is not None
    assert not any(module.training for module in averaged.modules())
    assert not any(p.requires_grad for p in averaged.parameters())
    norm = averaged[1]
    with torch.no_grad():
        inputs = torch.stack([averaged[0](x).double().transpose(0, 1).flatten(1) for x, _ in loader])
    torch.testing.assert_close(norm.running_mean.double(), inputs.mean(2).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), inputs.var(2).mean(0), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    (last,) = inputs[-1:]
    normed = (last - last.mean(1, keepdim=True)) / (last.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    expected = (normed * norm.weight.detach()[:, None] + norm.bias.detach()[:, None]).std(1)
    torch.testing.assert_close(averaged[2].sigma.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_average_passes_an_epoch_of_few_batches_once() -> None:
    history = tiny.finetune(tiny.student(), ema=0.99, objective="mixed")
    assert history.averaged is not None
    assert history.averaged[1].num_batches_tracked == 3
    assert all(layer.num_batches_tracked == 9 for _, layer in stochastic_layers(history.averaged))


def test_frozen_modules_of_an_average_stay_frozen() -> None:
    model = tiny.student().train()
    model[1].eval()
    history = tiny.finetune(model, ema=0.5)
    assert history.averaged is not None
    assert tiny.same(buffers(history.averaged[1]), buffers(nn.BatchNorm2d(4)))


def test_an_objective_that_knows_one_model_costs_a_warning_not_the_run() -> None:
    model = tiny.student()

    def own(step: Step) -> Tensor:
        if step.model is not model:
            raise RuntimeError("another model")
        return step.loss(step.logits(step.x)[0])

    with pytest.warns(UserWarning, match="keeps averages of the student's statistics.*another model"):
        history = tiny.finetune(model, ema=0.5, objective=own)
    assert len(history) == 2
    assert history.averaged is not None
    assert history.averaged[1].num_batches_tracked == 6


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.1}])
@pytest.mark.parametrize("sizes", [[4] * 6, [4] * 5, [4, 4, 4, 2], [4, 4]])
def test_an_incomplete_group_is_weighted_as_its_mean(sizes: list[int], settings: dict[str, Any]) -> None:
    """The weights after one epoch of plain SGD, four batches a step, are those of a loop by hand."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    reference = copy.deepcopy(model)
    x = torch.rand(sum(sizes), 4, dtype=torch.float64)
    y = torch.randint(3, (sum(sizes),))
    loader = DataLoader(TensorDataset(x, y), batch_size=sizes[0])
    assert [len(batch[0]) for batch in loader] == sizes
    tiny.finetune(
        model,
        loader,
        epochs=1,
        objective="clean",
        accumulate=4,
        optimizer=torch.optim.SGD,
        scheduler=lambda o, steps: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0),
        lr=0.5,
        weight_decay=0.0,
        **settings,
    )
    batches = list(loader)
    for start in range(0, len(batches), 4):
        group = batches[start : start + 4]
        losses = [nn.functional.cross_entropy(reference(a), b) for a, b in group]
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(reference.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        limit = settings.get("max_grad_norm", float("inf"))
        for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
            parameter.data -= 0.5 * gradient * min(1.0, limit / (norm + 1e-6))
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-9, atol=1e-12)
