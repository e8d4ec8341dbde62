"""The public call: settings are grouped, what they need is prepared by Accelerate, the trainer trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from stocnoise.attacks import PGD, Attack
from stocnoise.attacks.ball import PIXELS, Bounds, check_bounds, check_mask
from stocnoise.batches import BatchReader
from stocnoise.checks import check_model, check_several
from stocnoise.tasks import OutputReader, TaskLike, as_task
from stocnoise.training.algorithm import Algorithm
from stocnoise.training.borrowed import compiled, modes_kept, trackers
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.chosen import DEFAULT_GAMMA, own_attack, own_schedule, unusual
from stocnoise.training.eps import EpsSchedule
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.guard import Guard
from stocnoise.training.guided import parts
from stocnoise.training.history import History
from stocnoise.training.objectives import make_objective
from stocnoise.training.optim import (
    OptimizerChoice,
    SchedulerChoice,
    SchedulerStep,
    make_optimizer,
    make_schedule,
)
from stocnoise.training.perturbation import AWP, Perturbation
from stocnoise.training.settings import (
    Checkpointing,
    Data,
    Execution,
    Optimisation,
    Reporting,
    Settings,
)
from stocnoise.training.snapshot import RunState
from stocnoise.training.states import bare_optimizer, check_bare
from stocnoise.training.step import AttackTarget, Criterion, Objective, make_criterion
from stocnoise.training.tally import Tally
from stocnoise.training.trainer import Trainer
from stocnoise.training.trial import Trial

if TYPE_CHECKING:
    from accelerate import Accelerator


def finetune(
    student: nn.Module,
    train_loader: Iterable[Any],
    epochs: int = 10,
    objective: str | Objective = "at",
    attack: Attack | str = PGD(eps=8 / 255),  # noqa: B008 - frozen
    gamma: GammaSchedule | float | None = DEFAULT_GAMMA,
    *,
    task: TaskLike = "multiclass",
    output: OutputReader | None = None,
    batch: BatchReader = None,
    bounds: Bounds = PIXELS,
    mask: Tensor | None = None,
    eps: EpsSchedule | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    resume: bool = False,
    optimizer: OptimizerChoice = None,
    scheduler: SchedulerChoice = None,
    scheduler_step: SchedulerStep | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
    criterion: Criterion | None = None,
    attack_target: AttackTarget = "label",
    val_loader: Iterable[Any] | None = None,
    val_attack: Attack | str | None = None,
    ema: float | None = None,
    awp: AWP | None = None,
    guard: Guard | None = None,
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
    PyTorch's, Python's and NumPy's generators are set. Images are pixels in [0, 1] unless `bounds` says otherwise. The
    first batch of each loader makes one pass more, in eval mode, which shows whether the model takes it, and `task`
    the output and target, before anything moves.

    Modules that are in eval mode while others of the student are not (the BatchNorm of a frozen backbone) stay so,
    except stochastic layers whose σ has seen no batch. A student all in eval mode, as it comes out of an evaluation,
    trains as a whole. Afterwards every module has its mode again.

    Args:
        student: the model; trained where it stands, on Accelerate's device.
        train_loader: a `DataLoader`, or anything with a length that can be iterated anew each epoch; batches
            (images, labels) unless `batch` says otherwise. Its length is an epoch: batches beyond are left out, with a
            warning.
        epochs: T.
        objective: "at", "trades", "mart", "averaged", "mixed", "clean", an instance such as `Trades(beta=3)`,
            `Guided(teacher)` or `Learn2Perturb()`, or any function of a `Step` that returns the loss.
        attack: makes the adversarial examples; run in eval mode with the noise on, σ and BatchNorm untouched. A name of
            `stocnoise.attacks.registry.NAMES` is that attack with ε = 8/255 in L∞ and PGD's steps.
        gamma: the schedule of γ, its T the run's epochs; a number for a constant γ; None leaves γ as converted. Ignored
            by default where there is no stochastic layer.
        task: what the output means and when it is wrong; see `Task`. The attacks' task, unless they have one. TRADES
            and MART need a task with `logits`.
        output: what of the model's answer is the output: a key or attribute, an index, or a function.
        batch: entries of a batch by name or number, (input, target, further inputs of the model …), or a function that
            makes (input, target) of one; see `BatchReader`.
        bounds: lowest and highest value of an input, for attacks that do not say: numbers or tensors that broadcast to
            one input; None: no limit.
        mask: of 0 and 1, broadcasting to one input: what attacks may change, if they do not say.
        eps: how ε of the training attack grows at first, `EpsSchedule(epochs)`; None: it is the attack's throughout.
            `val_attack` always has its own.
        seed: of data order, augmentation, noise and attack.
        checkpoint_dir: a checkpoint is written here after each epoch, and after every `checkpoint_every` optimiser
            steps; the newest `keep_checkpoints` stay.
        resume: go on from the newest checkpoint in `checkpoint_dir`, if there is one. On the same machine the rest of
            the run is bit for bit what it would have been.
        optimizer: an optimiser over the student's parameters, a class or function that makes one of parameter groups,
            or None: SGD with `lr`, Nesterov momentum 0.9 and `weight_decay`. One that computes the loss again within a
            step, by a closure (LBFGS, SAM), is refused.
        scheduler: one made for `optimizer`, a function of (optimizer, number of steps), or None: one cycle, up to `lr`
            and down to nearly 0.
        scheduler_step: whether `scheduler` moves after each optimiser "step" (default) or after each "epoch". timm's
            schedules and ReduceLROnPlateau know themselves. What follows a figure is told the loss if its mode is
            "min"; for "max" the accuracy that counts most: robust before clean, of `val_loader` before training.
        lr: peak learning rate, default 0.05; in the groups that `optimizer` is made of, where None leaves it its own.
        weight_decay: default 5e-4; in the groups that `optimizer` is made of.
        max_grad_norm: clip the gradient to this norm.
        criterion: L(output, target), a mean; for example `nn.CrossEntropyLoss(label_smoothing=0.1)`. Default the
            mean of the task's loss, cross-entropy for "multiclass".
        attack_target: "label", or "prediction" to attack what the student predicts on the clean images.
        val_loader: measured after each epoch: accuracy, and robust accuracy under `val_attack` (default `attack`, which
            after training in one step sees no collapse). The weights of the best epoch are kept:
            `history.best.restore(student)`.
        ema: decay of an exponential average of the weights (timm's ModelEmaV3), returned as `history.averaged`. Its σ
            and BatchNorm's statistics are of its own weights: at the end of the run the objective makes its passes of
            it on up to 64 batches, without a backward pass.
        awp: adversarial weight perturbation, see `AWP`.
        guard: undoes an epoch in which the student collapses, see `Guard`.
        callbacks: see `Callback`.
        precision: mixed precision; default Accelerate's configuration.
        accumulate: batches an optimiser step, the gradient their mean, also of the fewer that end an epoch; σ moves
            with each.
        compile: `torch.compile` the student for the run.
        channels_last: train in channels-last memory format.
        log_with: a tracker of Accelerate, such as "tensorboard" (written to `checkpoint_dir`).
        progress: show a progress bar.
        accelerator: your own, for FSDP and other plugins; `precision`, `accumulate` and `log_with` are then its.

    Whatever ends the run before its end, Ctrl-C or a callback's exception, leaves the student of the last step, to be
    used, saved or trained on, each module in its mode, and the checkpoints written so far.

    Returns:
        The figures of each epoch, with `plot`.

    Raises:
        CheckpointError: a checkpoint cannot be written or read, is of another run, or is there without `resume`.
        NonFiniteError: NaN or infinity, with the layer it began in.
        ValueError: settings that cannot work, and outputs or targets that the task does not take, before any step.

    Source: Tan, Elovici, Binder, ICPR 2020, Algorithm 1.

    Example:
        >>> attack = stocnoise.PGD(eps=8 / 255, steps=5)
        >>> history = stocnoise.finetune(student, loader, epochs=2, attack=attack, progress=False)
        >>> [round(epoch.gamma, 3) for epoch in history]
        [0.01, 0.055]
    """
    check_model("student", student)
    check_bare(student)
    check_bounds(bounds)
    check_mask(mask)
    check_several("callbacks", callbacks, "instances of stocnoise.Callback")
    chosen = make_objective(objective)
    every_callback = [*(part for part in parts(chosen) if isinstance(part, Callback)), *callbacks]
    reporting = Reporting(callbacks=every_callback, progress=progress)
    meaning = as_task(task, output)
    asked = unusual(meaning, bounds, mask)
    own = own_attack(attack, asked)
    settings = Settings(
        algorithm=Algorithm(
            epochs=epochs,
            objective=chosen,
            attack=own,
            attack_target=attack_target,
            gamma=own_schedule(gamma, student, epochs, every_callback),
            val_attack=own if val_attack is None else own_attack(val_attack, asked, "val_attack"),
            task=meaning,
            eps=eps,
            guard=guard,
        ),
        data=Data(seed=seed, train_loader=train_loader, val_loader=val_loader, batch=batch),
        execution=Execution(
            precision=precision,
            accumulate=accumulate,
            compile=compile,
            channels_last=channels_last,
            log_with=log_with,
            accelerator=accelerator,
        ),
        optimisation=Optimisation(
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_step=scheduler_step,
            lr=lr,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            criterion=make_criterion(criterion, meaning),
            ema=ema,
            awp=awp,
        ),
        checkpointing=Checkpointing(
            folder=checkpoint_dir, every=checkpoint_every, keep=keep_checkpoints, resume=resume
        ),
        reporting=reporting,
    )
    if settings.checkpointing.store is not None:
        settings.data.warn_of_workers()
    with settings.execution.accelerate(checkpoint_dir) as prepared, modes_kept(student):
        trainer = _prepare(student, settings, prepared)
        with trackers(prepared, log_with is not None), compiled(student, compile):
            return trainer.train()


def _prepare(student: nn.Module, settings: Settings, accelerator: Accelerator) -> Trainer:
    """The student on Accelerate's device, and everything that trains it."""
    algorithm, data, optimisation = settings.algorithm, settings.data, settings.optimisation
    settings.execution.check_precision(accelerator)
    student.to(accelerator.device)
    if settings.execution.channels_last:
        student.to(memory_format=torch.channels_last)
    averaged = optimisation.averaged(student)
    optimizer = make_optimizer(student, optimisation.optimizer, optimisation.lr, optimisation.weight_decay)
    last_rows = data.last_rows if accelerator.num_processes == 1 else None  # Accelerate fills up the others'
    model, optimizer, loader = accelerator.prepare(student, optimizer, data.train_loader)
    bare = bare_optimizer(optimizer)
    optimisation.check_whole(model)
    val_loader = None if data.val_loader is None else accelerator.prepare(data.val_loader)
    data = replace(data, train_loader=loader, val_loader=val_loader)
    data.check_shares(accelerator)
    settings = replace(settings, data=data)
    steps = -(-data.batches // accelerator.gradient_accumulation_steps)
    state = RunState(
        settings=settings.words(accelerator, bare),
        run=Run(student=student, optimizer=optimizer, epochs=algorithm.epochs, steps_per_epoch=steps),
        model=model,
        optimizer=optimizer,
        scheduler=make_schedule(bare, optimisation.scheduler, steps * algorithm.epochs, optimisation.scheduler_step),
        schedules=algorithm.schedules,
        averaged=averaged,
        callbacks=settings.reporting.callbacks,
        accelerator=accelerator,
        tally=Tally(accelerator.device),
    )
    if optimisation.awp is not None:
        state.perturbation = Perturbation(optimisation.awp, student, model, algorithm.objective, accelerator)
    return Trainer(settings, state, Trial(algorithm.objective, algorithm.task, last_rows))
