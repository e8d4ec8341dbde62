"""Each public operation on a tiny model, with what must be as it was after a fault in it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from stocnoise.attacks import PGD
from tests.faults.process_state import RANDOM, differences, model_state

X = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


class Small(nn.Module):
    """An activation module, a shared one, a functional one, BatchNorm, and a list that holds a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()
        self.more, self.once = nn.Conv2d(2, 2, 1), nn.GELU()
        self.head = nn.Linear(18, 3)
        self.held = {"steps": [self.more, self.once]}

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        for step in self.held["steps"]:
            x = step(x)
        return self.head(F.silu(self.act(x)).flatten(1))


def teacher() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    model.conv.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(3)
    model.more.eval()
    return model


def student(**settings: Any) -> nn.Module:
    """Calibrated, with modes that are not all alike."""
    made = stocnoise.convert(teacher().train(), X, gamma=0.1, **settings)
    stocnoise.calibrate(made, [X, X])
    list(made.modules())[2].eval()
    return made


def smoothed() -> nn.Module:
    return stocnoise.with_input_noise(teacher().eval(), 0.25)


@dataclass
class Prepared:
    """An operation about to run."""

    call: Callable[[], Any]
    model: nn.Module
    moves: frozenset[str] = frozenset()
    """What of the process may be otherwise afterwards."""
    usable: Callable[[nn.Module], Any] | None = None
    """What a model must be that need not be as before."""


def loader() -> Iterable[Any]:
    return [(X, Y), (X.flip(0), Y.flip(0))]


def convert(folder: Path) -> Prepared:
    model = teacher()
    return Prepared(lambda: stocnoise.convert(model, X, check=True), model)


def convert_in_place(folder: Path) -> Prepared:
    model = teacher()
    call = functools.partial(stocnoise.convert, model, X, inplace=True, check=True)
    return Prepared(call, model, usable=whole_or_nothing(model))


def revert(folder: Path) -> Prepared:
    model = student()
    return Prepared(lambda: stocnoise.revert(model), model)


def revert_in_place(folder: Path) -> Prepared:
    model = student()
    call = functools.partial(stocnoise.revert, model, inplace=True)
    return Prepared(call, model, usable=whole_or_nothing(model))


def calibrate(folder: Path) -> Prepared:
    model = student()
    call = functools.partial(stocnoise.calibrate, model, loader())
    return Prepared(call, model, moves=frozenset({"random: torch"}), usable=same_but_sigma(model))


def pgd(folder: Path) -> Prepared:
    model = student()
    attack = PGD(eps=0.1, steps=2, eot=2)
    return Prepared(lambda: attack(model, X, Y), model, moves=frozenset({"random: torch"}))


def pgd_with_batch_norm(folder: Path) -> Prepared:
    model = student()
    attack = PGD(eps=0.1, steps=1, batch_norm="train")
    return Prepared(lambda: attack(model, X, Y), model, moves=frozenset({"random: torch"}))


def predict(folder: Path) -> Prepared:
    model = student()
    return Prepared(lambda: stocnoise.predict(model, X, 3), model, moves=frozenset({"random: torch"}))


def evaluate(folder: Path) -> Prepared:
    model = student()
    call = functools.partial(
        stocnoise.evaluate,
        model,
        [(X, Y)],
        ["pgd", "cw"],
        0.1,
        eot=1,
        steps=1,
        draws=2,
        progress=False,
        path=folder / "report.json",
        resume=True,
    )
    return Prepared(call, model)


def strongest(folder: Path) -> Prepared:
    model = student()
    call = functools.partial(
        stocnoise.evaluate, model, [(X, Y)], "strongest", 0.1, draws=2, progress=False, checks=False
    )
    return Prepared(call, model)


def finetune(folder: Path) -> Prepared:
    model = student()
    call = functools.partial(
        stocnoise.finetune,
        model,
        loader(),
        epochs=1,
        attack=PGD(eps=0.1, steps=1),
        val_loader=loader(),
        progress=False,
        ema=0.5,
        max_grad_norm=1.0,
        checkpoint_dir=folder,
    )
    return Prepared(call, model, moves=frozenset(RANDOM), usable=trains)


def certify(folder: Path) -> Prepared:
    model = smoothed()
    call = functools.partial(
        stocnoise.certify, model, [(X, Y)], n0=4, n=20, alpha=0.01, progress=False, path=folder / "certificate.json"
    )
    return Prepared(call, model)


def save(folder: Path) -> Prepared:
    model = student()
    path = folder / "student.safetensors"
    return Prepared(lambda: stocnoise.save(model, path), model)


def load(folder: Path) -> Prepared:
    path = folder / "student.safetensors"
    stocnoise.save(student(), path)
    model = teacher()
    return Prepared(lambda: stocnoise.load(path, model), model)


OPERATIONS = [
    convert,
    convert_in_place,
    revert,
    revert_in_place,
    calibrate,
    pgd,
    pgd_with_batch_norm,
    predict,
    evaluate,
    strongest,
    finetune,
    certify,
    save,
    load,
]


def whole_or_nothing(model: nn.Module) -> Callable[[nn.Module], None]:
    """As before, or with all of it done, where Ctrl-C came on the way out."""
    before = model_state(model)
    count = len(list(stocnoise.stochastic_layers(model)))

    def check(model: nn.Module) -> None:
        if differences(before, model_state(model)):
            layers = list(stocnoise.stochastic_layers(model))
            assert len(layers) == (0 if count else 4)
            back = stocnoise.revert(model) if layers else model
            assert [type(module) for module in back.modules()] == [type(module) for module in teacher().modules()]
            assert hasattr(model, "_stocnoise_conversion") == bool(layers)

    return check


def same_but_sigma(model: nn.Module) -> Callable[[nn.Module], None]:
    """Everything but what calibration is for."""
    modes = [module.training for module in model.modules()]
    others = {name: value.clone() for name, value in model.state_dict().items() if not _of_sigma(name)}

    def check(model: nn.Module) -> None:
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, others[name]) for name, value in model.state_dict().items() if name in others)
        assert all(layer.sigma.isfinite().all() for _, layer in stocnoise.stochastic_layers(model))

    return check


def _of_sigma(name: str) -> bool:
    return name.endswith(("sigma", "sigma_before", "num_batches_tracked")) and "norm" not in name


def trains(model: nn.Module) -> None:
    """A student that can be used, saved, taken back, and trained on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stocnoise.UncalibratedWarning)
        assert model(X).isfinite().all()
    assert len(list(stocnoise.stochastic_layers(model))) == 4
    stocnoise.revert(model)
    assert "forward" not in vars(model) and model._compiled_call_impl is None
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["conv.weight"]
    model(X).sum().backward()
