"""The public call: everything for a run is made here, prepared by Accelerate, and handed to the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from stocnoise.attacks import PGD, Attack
from stocnoise.controls import stochastic_layers
from stocnoise.errors import CheckpointError
from stocnoise.training.arguments import (
    check_loader,
    check_precision,
    check_run,
    check_shares,
    check_student,
    warn_of_workers,
)
from stocnoise.training.borrowed import accelerator_for, modes_kept
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.checkpoints import Checkpoints
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.history import History
from stocnoise.training.objectives import AttackTarget, Criterion, Objective, check_attack_target, make_objective
from stocnoise.training.optim import OptimizerChoice, SchedulerChoice, make_optimizer, make_scheduler
from stocnoise.training.states import is_sharded
from stocnoise.training.trainer import Trainer
from stocnoise.training.wording import in_words

if TYPE_CHECKING:
    from accelerate import Accelerator

_DEFAULT_GAMMA = GammaSchedule(init=0.01, max=0.1, interval=1)


def finetune(
    student: nn.Module,
    train_loader: Iterable[Any],
    epochs: int = 10,
    objective: str | Objective = "at",
    attack: Attack = PGD(eps=8 / 255),  # noqa: B008 - frozen
    gamma: GammaSchedule | None = _DEFAULT_GAMMA,
    *,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    resume: bool = False,
    optimizer: OptimizerChoice = None,
    scheduler: SchedulerChoice = None,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    max_grad_norm: float | None = None,
    criterion: Criterion = F.cross_entropy,
    attack_target: AttackTarget = "label",
    val_loader: Iterable[Any] | None = None,
    val_attack: Attack | None = None,
    ema: float | None = None,
    callbacks: Sequence[Callback] = (),
    precision: Literal["no", "bf16", "fp16"] | None = None,
    accumulate: int = 1,
    compile: bool = False,
    channels_last: bool = False,
    log_with: str | None = None,
    progress: bool = True,
    accelerator: Accelerator | None = None,
) -> History:
    """Train `student` in place by Algorithm 1: adversarial training with noise that grows.

    The same call trains the baselines: a model that was not converted (no noise), and students of other layers. It runs
    on a CPU or GPU as it is, and on many under `accelerate launch` or `torchrun`; on CPUs that is `torchrun`, since
    `accelerate launch --cpu` starts one process. Each epoch starts from a seed made of (`seed`, epoch, process), so
    PyTorch's, Python's and NumPy's generators are set. Images are pixels in [0, 1].

    Args:
        student: the model; trained where it stands, on Accelerate's device.
        train_loader: a `DataLoader`, or anything with a length that can be iterated anew each epoch; batches
            (images, labels).
        epochs: T.
        objective: "at", "trades", "mixed", "clean", an instance such as `Trades(beta=3)` or `Learn2Perturb()`, or any
            function of a `Step` that returns the loss.
        attack: makes the adversarial examples; run in eval mode with the noise on, σ and BatchNorm untouched.
        gamma: the schedule of γ, its T the run's epochs; None leaves γ as converted. Ignored by default where there is
            no stochastic layer.
        seed: of data order, augmentation, noise and attack.
        checkpoint_dir: a checkpoint is written here after each epoch, and after every `checkpoint_every` optimiser
            steps; the newest `keep_checkpoints` stay.
        resume: go on from the newest checkpoint in `checkpoint_dir`, if there is one. On the same machine the rest of
            the run is bit for bit what it would have been.
        optimizer: an optimiser over the student's parameters, a function of parameter groups that makes one, or None:
            SGD with `lr`, Nesterov momentum 0.9 and `weight_decay`.
        scheduler: stepped after each optimiser step; one made for `optimizer`, a function of (optimizer, number of
            steps), or None: one cycle, up to `lr` and down to nearly 0.
        max_grad_norm: clip the gradient to this norm.
        criterion: L(logits, labels), a mean; for example `nn.CrossEntropyLoss(label_smoothing=0.1)`.
        attack_target: "label", or "prediction" to attack what the student predicts on the clean images.
        val_loader: measured after each epoch: accuracy, and robust accuracy under `val_attack` (default `attack`).
        ema: decay of an exponential average of the weights (timm's ModelEmaV3), returned as `history.averaged`.
        callbacks: see `Callback`.
        precision: mixed precision; default Accelerate's configuration.
        accumulate: batches an optimiser step; σ moves with each.
        compile: `torch.compile` the student for the run.
        channels_last: train in channels-last memory format.
        log_with: a tracker of Accelerate, such as "tensorboard" (written to `checkpoint_dir`).
        progress: show a progress bar.
        accelerator: your own, for FSDP and other plugins; `precision`, `accumulate` and `log_with` are then its.

    Returns:
        The figures of each epoch, with `plot`.

    Raises:
        CheckpointError: a checkpoint cannot be written or read, is of another run, or is there without `resume`.
        NonFiniteError: NaN or infinity, with the layer it began in.

    Source: Tan, Elovici, Binder, ICPR 2020, Algorithm 1.
    """
    check_student(student)
    check_run(epochs, checkpoint_dir, checkpoint_every, resume)
    if accelerator is not None and (precision is not None or accumulate != 1 or log_with is not None):
        raise ValueError("precision, accumulate and log_with are settings of your accelerator: give them to it")
    check_attack_target(attack_target)
    chosen = make_objective(objective)
    every_callback = [*([chosen] if isinstance(chosen, Callback) else []), *callbacks]
    schedule = _own_schedule(gamma, student, epochs, every_callback)
    check_loader(train_loader)
    checkpoints = _open(checkpoint_dir, keep_checkpoints, resume)
    if checkpoints is not None:
        warn_of_workers(train_loader)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    tracked = {} if log_with is None else {"log_with": log_with, "project_dir": str(checkpoint_dir or "runs")}

    with accelerator_for(accelerator, precision, accumulate, tracked) as prepared, modes_kept(student):
        check_precision(prepared)
        student.to(prepared.device)
        if channels_last:
            student.to(memory_format=torch.channels_last)
        averaged = _averaged(student, ema)
        own_optimizer = make_optimizer(student, optimizer, lr, weight_decay)
        model, own_optimizer, loader = prepared.prepare(student, own_optimizer, train_loader)
        if averaged is not None and is_sharded(model):
            raise ValueError("ema needs whole weights on every process: it does not work with FSDP")
        check_shares(loader, prepared)
        batches = len(loader)
        steps = -(-batches // prepared.gradient_accumulation_steps)
        if tracked:
            prepared.init_trackers("stocnoise")
        run = Run(student=student, optimizer=own_optimizer, epochs=epochs, steps_per_epoch=steps)
        trainer = Trainer(
            run=run,
            model=model,
            optimizer=own_optimizer,
            scheduler=make_scheduler(_bare(own_optimizer), scheduler, steps * epochs),
            loader=loader,
            val_loader=None if val_loader is None else prepared.prepare(val_loader),
            accelerator=prepared,
            objective=chosen,
            attack=attack,
            val_attack=val_attack or attack,
            attack_target=attack_target,
            criterion=criterion,
            gamma=schedule,
            averaged=averaged,
            callbacks=every_callback,
            checkpoints=checkpoints,
            checkpoint_every=checkpoint_every,
            max_grad_norm=float("inf") if max_grad_norm is None else max_grad_norm,
            memory_format=memory_format,
            seed=seed,
            settings={
                "epochs": epochs,
                "objective": in_words(chosen),
                "attack": in_words(attack),
                "attack_target": attack_target,
                "gamma": repr(schedule),
                "seed": seed,
                "batches": batches,
                "accumulate": prepared.gradient_accumulation_steps,
                "processes": prepared.num_processes,
                "precision": prepared.mixed_precision,
                "optimizer": type(_bare(own_optimizer)).__name__,
                "lr": lr if optimizer is None else None,
                "weight_decay": weight_decay if optimizer is None else None,
                "max_grad_norm": max_grad_norm,
                "criterion": in_words(criterion),
                "ema": ema,
                "callbacks": [type(callback).__name__ for callback in every_callback],
            },
            progress=progress,
        )
        try:
            if compile:
                student.compile()
            trainer.train(resume)
        finally:
            if compile:
                student._compiled_call_impl = None
            if tracked:  # not `end_training`, which also ends the caller's process group
                for tracker in prepared.trackers:
                    tracker.finish()
    run.history.averaged = None if averaged is None else averaged.module
    return run.history


def _own_schedule(
    gamma: GammaSchedule | None, student: nn.Module, epochs: int, callbacks: Sequence[Callback]
) -> GammaSchedule | None:
    """The schedule of this run, a copy that knows T, so that the caller's stays as it is."""
    by = next((callback for callback in callbacks if callback.sets_gamma), None)
    if gamma is _DEFAULT_GAMMA and (by is not None or not any(stochastic_layers(student))):
        return None
    if gamma is None:
        return None
    if by is not None:
        raise ValueError(f"{type(by).__name__} sets gamma itself: leave out gamma")
    if gamma.epochs not in (None, epochs):
        raise ValueError(f"{gamma!r} is for {gamma.epochs} epochs, the run for {epochs}")
    return GammaSchedule(gamma.init, gamma.max, gamma.interval, epochs)


def _open(folder: str | Path | None, keep: int, resume: bool) -> Checkpoints | None:
    if folder is None:
        return None
    checkpoints = Checkpoints(Path(folder), keep)
    if not resume and checkpoints.paths():
        raise CheckpointError(
            f"{folder} holds checkpoints of an earlier run: resume=True continues it, another checkpoint_dir keeps it"
        )
    return checkpoints


def _averaged(student: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(student, decay=decay)


def _bare(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)
