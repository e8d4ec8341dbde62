"""Wrong calls: training."""

from __future__ import annotations

import math

import torch
from torch import nn

import stocnoise
from stocnoise import APGD, AWP, CW, PGD, EpsSchedule, GammaSchedule, Guard, Guided, Learn2Perturb, Trades
from stocnoise.errors import CheckpointError
from tests.wrong_calls.attacks import BOUNDS, MASK
from tests.wrong_calls.noise import READERS
from tests.wrong_calls.table import (
    Calls,
    Of,
    Row,
    any_whole,
    choice,
    each,
    function,
    model,
    number,
    output,
    path,
    several,
    share,
    task,
    whole,
    wrong,
)
from tests.wrong_calls.world import World, batches


def _loader(argument: str) -> list[Row]:
    """Batches that no student of three classes and images of three channels can be trained on."""
    return [
        *several(argument),
        wrong(argument, iter([]), ValueError, "loader"),
        wrong(argument, [], ValueError, "empty"),
    ]


def _labels(labels: torch.Tensor, *words: str, known_as: str = "labels") -> Row:
    return wrong(
        "train_loader", Of(lambda w: batches(w.images, labels)), ValueError, *words, known_as=known_as, asked=True
    )


def _images(images: torch.Tensor, *words: str) -> Row:
    found = Of(lambda w: batches(images, w.labels))
    return wrong("train_loader", found, ValueError, *words, known_as="inputs", asked=True)


def _attack(argument: str) -> list[Row]:
    return [
        *each(argument, [3, PGD, [PGD()], True], TypeError, "must be a name, such as 'pgd', or an attack"),
        wrong(argument, "pdg", ValueError, "unknown attack 'pdg'", "pgd", known_as="attack"),
        wrong(argument, "transfer", ValueError, f"{argument}=stocnoise.attacks.Transfer(source=teacher)"),
        wrong(argument, PGD(eps=0.1, targeted=True), ValueError, "targeted", known_as="val_attack"),
    ]


def _trained(w: World) -> dict[str, object]:
    return {"student": w.student, "train_loader": w.loader, "epochs": 1, "attack": w.attack, "progress": False}


def _other_model(w: World) -> torch.optim.Optimizer:
    return torch.optim.SGD(w.model.parameters(), 0.1)


CALLS = [
    Calls(
        "finetune",
        _trained,
        [
            *model("student"),
            wrong("student", Of(lambda w: w.wrapped), ValueError, "pass its .module", known_as="module"),
            wrong("student", nn.Flatten(), ValueError, "nothing to train", known_as="model"),
            *_loader("train_loader"),
            _labels(torch.zeros(4), 'task="binary"'),
            _labels(torch.tensor([0, 1, 2, 3]), "out of range", known_as="label"),
            _labels(torch.tensor([0, 1, 2, -1]), "out of range", known_as="label"),
            _images(torch.zeros(4, 3, 6, 6).byte(), "divide images by 255"),
            _images(torch.zeros(4, 3, 6, 6).double(), "torch.float32"),
            wrong("train_loader", [1, 2], ValueError, "must be (images, labels)", known_as="batch", asked=True),
            wrong(
                "train_loader", [([0.0], [1])], ValueError, "must be a tensor, not list", known_as="batch", asked=True
            ),
            *whole("epochs"),
            *each("objective", ["pgd", 3, None, Trades], ValueError, "must be"),
            wrong("objective", lambda step: None, ValueError, "one number with a gradient", asked=True),
            wrong("objective", lambda step: torch.zeros(4), ValueError, "shape (4,)", asked=True),
            wrong("objective", "trades", ValueError, "PGD(random_start=True)", attack=APGD(), asked=True),
            wrong("objective", Learn2Perturb(), ValueError, "layer=StocL2P", known_as="Learn2Perturb", asked=True),
            wrong(
                "objective",
                Of(lambda w: Guided(w.student)),
                ValueError,
                "share weights",
                known_as="teacher",
                asked=True,
            ),
            *_attack("attack"),
            *each("eps", [3, 0.1, "0.1", EpsSchedule], TypeError, "attack=PGD(eps=…)"),
            wrong("eps", EpsSchedule(epochs=2), ValueError, "never reach", "1 epochs"),
            wrong("eps", EpsSchedule(epochs=1), ValueError, "within eps", attack=CW()),
            *number("gamma"),
            wrong("gamma", GammaSchedule(epochs=7), ValueError, "7 epochs, the run for 1", known_as="GammaSchedule"),
            wrong("gamma", 0.1, ValueError, "leave out gamma", objective=Learn2Perturb()),
            *task(),
            *output(),
            wrong("output", "no such", ValueError, "output='no such' finds NoneType", asked=True),
            *READERS,
            *BOUNDS,
            *MASK,
            *any_whole("seed"),
            *path("checkpoint_dir"),
            wrong("checkpoint_dir", Of(lambda w: w.checkpoints), CheckpointError, "resume=True"),
            *whole("checkpoint_every", checkpoint_dir="runs"),
            wrong("checkpoint_every", 3, ValueError, "need a checkpoint_dir"),
            *whole("keep_checkpoints"),
            wrong("resume", True, ValueError, "need a checkpoint_dir"),
            *each("optimizer", [3, "sgd", nn.ReLU, lambda groups: None], TypeError, "a torch.optim.Optimizer"),
            wrong("optimizer", Of(_other_model), ValueError, "no parameter of the student"),
            wrong("optimizer", torch.optim.LBFGS, ValueError, "closure", known_as="optimizer"),
            *each("scheduler", [3, "cosine", lambda optimizer, steps: None], ValueError, "step() of the scheduler"),
            *choice("scheduler_step", "step", "epoch"),
            wrong("scheduler_step", "epoch", ValueError, "without scheduler="),
            *number("lr", above_zero=True),
            wrong("lr", 0.1, ValueError, "cannot reach an optimizer", optimizer=Of(lambda w: w.optimizer)),
            *number("weight_decay"),
            wrong("weight_decay", 0.1, ValueError, "cannot reach", optimizer=Of(lambda w: w.optimizer)),
            *number("max_grad_norm", above_zero=True),
            *function("criterion"),
            *choice("attack_target", "label", "prediction"),
            *_loader("val_loader"),
            *_attack("val_attack"),
            *each("awp", [3, 0.005, True, AWP], TypeError, "such as AWP(gamma=5e-3)"),
            *each("guard", [3, True, Guard, PGD()], TypeError, "such as Guard((images, labels))"),
            wrong("guard", Guard(3), ValueError, "must be (images, labels)", known_as="batch", asked=True),
            wrong("guard", Of(lambda w: Guard((w.images, w.labels))), ValueError, "Guard(batch", attack=CW()),
            *each("ema", ["0.9", True, math.nan, -0.1], ValueError, "must be a finite number"),
            *each("ema", [1, 2.0], ValueError, "below 1"),
            *several("callbacks"),
            *each("callbacks", [[print], [stocnoise.Callback]], TypeError, "instances of stocnoise.Callback"),
            *choice("precision", "no", "bf16", "fp16"),
            *whole("accumulate"),
            wrong(
                "accumulate",
                2,
                ValueError,
                "need a torch DataLoader",
                train_loader=Of(lambda w: [*w.loader]),
                asked=True,
            ),
            *choice("log_with", "tensorboard", "wandb")[:1],
            *each("accelerator", ["cpu", 3, object()], TypeError, "must be an accelerate.Accelerator"),
        ],
    ),
    Calls(
        "GammaSchedule",
        lambda w: {},
        [*number("init"), *number("max"), *whole("interval"), *whole("epochs")],
    ),
    *(
        Calls(
            f"GammaSchedule.{method}",
            lambda w: {"student": w.student},
            [*model("student"), wrong("student", Of(lambda w: w.model), ValueError, "convert it", known_as="model")],
            on=lambda w: w.schedule,
        )
        for method in ("apply", "step")
    ),
    Calls(
        "GammaSchedule.load_state_dict",
        lambda w: {"state": w.schedule.state_dict()},
        [
            *each("state", [3, {}, {"epoch": 1}, None], ValueError, "what GammaSchedule.state_dict gives"),
            wrong("state", Of(lambda w: w.schedule.state_dict() | {"epoch": "1"}), ValueError, "whole number"),
            wrong("state", GammaSchedule(max=0.3).state_dict(), ValueError, "another schedule"),
        ],
        on=lambda w: w.schedule,
    ),
    Calls("EpsSchedule", lambda w: {"epochs": 1}, [*number("epochs", above_zero=True), *share("init")]),
    Calls(
        "EpsSchedule.__call__",
        lambda w: {"attack": w.attack, "epochs": 0.5},
        [*each("attack", [3, "pgd", CW(), PGD], ValueError, "within eps"), *number("epochs")],
        on=lambda w: EpsSchedule(epochs=1),
    ),
    Calls("AWP", lambda w: {}, [*number("gamma", above_zero=True), *whole("warmup", 0)]),
    Calls(
        "Guard",
        lambda w: {"batch": (w.images, w.labels)},
        [
            *each("attack", [3, "pgd", PGD, PGD(targeted=True)], ValueError, "untargeted", "stocnoise.PGD()"),
            *whole("limit", 0),
        ],
    ),
    Calls(
        "training.Best.restore",
        lambda w: {"student": w.student},
        [
            *model("student"),
            wrong("student", Of(lambda w: w.model), ValueError, "another model"),
        ],
        on=lambda w: w.best,
    ),
    Calls(
        "History",
        lambda w: {},
        [*several("epochs"), wrong("epochs", [3], TypeError, "stocnoise.training.Epoch")],
    ),
    Calls(
        "History.append",
        lambda w: {"epoch": stocnoise.training.Epoch(1, 0.1, None, None, None, None, None)},
        each("epoch", [3, {"epoch": 1}, None], TypeError, "stocnoise.training.Epoch"),
        on=lambda w: w.history,
    ),
    Calls(
        "History.replace",
        lambda w: {"epochs": []},
        [*several("epochs"), wrong("epochs", [3], TypeError, "stocnoise.training.Epoch")],
        on=lambda w: w.history,
    ),
    Calls(
        "History.from_dict",
        lambda w: {"data": w.history.to_dict()},
        [*several("data"), *each("data", [[3], [{}], [{"epoch": 1}]], ValueError, "what History.to_dict gives")],
        on=lambda w: w.history,
    ),
    Calls("History.plot", lambda w: {"path": "history.png"}, path("path"), on=lambda w: w.history),
    Calls(
        "parameter_groups",
        lambda w: {"model": w.student, "weight_decay": 0.1},
        [*model("model"), *number("weight_decay")],
    ),
]
