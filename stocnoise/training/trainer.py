"""The loop of Algorithm 1 over prepared objects; `run.finetune` prepares them."""

from __future__ import annotations

import itertools
import time
import warnings
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from stocnoise.batches import Batch
from stocnoise.controls import stochastic_layers
from stocnoise.training.averaged import PASSES, refresh_statistics
from stocnoise.training.borrowed import kept_in_eval
from stocnoise.training.gradient import Gradient
from stocnoise.training.history import Epoch, History
from stocnoise.training.progress import ProgressBar
from stocnoise.training.randomness import Batches, seed_all, set_random_state
from stocnoise.training.settings import Settings
from stocnoise.training.snapshot import RunState, restore, take
from stocnoise.training.step import Step
from stocnoise.training.tally import Tally
from stocnoise.training.trial import Trial
from stocnoise.training.validation import Validation
from stocnoise.training.watch import Watch, shortened

_SYMBOLS = {"gamma": "γ"}  # of the schedules


@dataclass
class Trainer:
    """What was asked for, and what moves."""

    settings: Settings
    state: RunState
    trial: Trial

    def __post_init__(self) -> None:
        self.run = self.state.run
        self.student = self.state.student
        self.model = self.state.model
        self.averaged = self.state.averaged
        self.callbacks = self.state.callbacks
        self.accelerator = self.state.accelerator
        self.schedules = {name: schedule for name, schedule in self.state.schedules.items() if schedule is not None}
        self.resumed_random: dict[str, Any] | None = None
        self.in_eval = kept_in_eval(self.student)
        self.gradient = Gradient(self.settings, self.state)
        self.validation = Validation(self.settings, self.state, self._read)
        self.watch: Watch | None = None
        if (guard := self.settings.algorithm.guard) is not None:
            algorithm, seed = self.settings.algorithm, self.settings.data.seed
            held = self._read(guard.batch)
            self.watch = self.state.watch = Watch(guard, self.state, held, algorithm.attack, algorithm.task, seed)
        self.warned_of_length = False

    def train(self) -> History:
        """All epochs, or those that the newest checkpoint leaves."""
        for _, layer in stochastic_layers(self.student):
            layer.notice.given = True  # σ = 0 is how Algorithm 1 begins
        for schedule in self.schedules.values():
            schedule.apply(self.student)
        kept = self.settings.checkpointing
        if kept.resume and kept.store is not None and (found := kept.store.newest()) is not None:
            self.resumed_random = restore(self.state, *found)
        if self.run.epoch < self.run.epochs and not self.run.stop:
            self.validation.check(self.trial)
            if self.watch is not None:
                self.watch.check(self.trial)
        while self.run.epoch < self.run.epochs and not self.run.stop:
            self._epoch()
        self.run.history.averaged = None if self.averaged is None else self.averaged.module
        return self.run.history

    def _epoch(self) -> None:
        run, data, started = self.run, self.settings.data, time.perf_counter()
        if self.watch is not None and self.state.batch == 0:
            self.watch.keep()
        self.student.train()
        for module in self.in_eval:
            module.training = False
        for callback in self.callbacks:
            callback.on_epoch_begin(run)
        rank, device = self.accelerator.process_index, self.accelerator.device
        seed_all(data.seed, run.epoch, f"train {rank}")
        batches = Batches(data.train_loader, data.seed, run.epoch, rank, device)
        # Exact even with augmentation and worker processes: what came before is loaded again and dropped.
        for _ in range(self.state.batch):
            next(batches)
        if self.resumed_random is not None:
            set_random_state(self.resumed_random, device)
            self.resumed_random = None
        hidden = not (self.settings.reporting.progress and self.accelerator.is_local_main_process)
        name = f"epoch {run.epoch + 1}/{run.epochs}"
        with closing(ProgressBar(name, data.train_loader, self.state.batch, hidden)) as bar:
            for batch in batches:
                if self.state.batch == data.batches:
                    self._warn_of_length("more")
                    break
                self._micro_batch(batch)
                bar.batch_done(self._so_far)
        if self.state.batch < data.batches:
            self._warn_of_length(str(self.state.batch))
        self._finish_epoch(time.perf_counter() - started)

    def _warn_of_length(self, given: str) -> None:
        """Of a loader that does not keep to its length, which is known only when it shows."""
        if given == "0":
            raise ValueError(f"train_loader gave no batch in epoch {self.run.epoch + 1}: it must begin anew each epoch")
        if not self.warned_of_length:
            self.warned_of_length = True
            rest = (
                "an epoch ends there, and leaves out the rest" if given == "more" else "the learning rate expects all"
            )
            warnings.warn(
                f"train_loader has a length of {self.settings.data.batches} batches and gives {given}: {rest}",
                stacklevel=2,
            )

    def _micro_batch(self, batch: Any) -> None:
        state = self.state
        found = self._read(batch)
        self.trial(self.model, found)
        with self.accelerator.accumulate(self.model):
            self.gradient.add(self._step(self.model, found))
            state.optimizer.step()
            state.optimizer.zero_grad()
        state.batch += 1
        if self.accelerator.sync_gradients:
            self._after_step()

    def _step(self, model: nn.Module, batch: Batch) -> Step:
        algorithm, criterion = self.settings.algorithm, self.settings.optimisation.criterion
        return Step(
            model,
            batch.x,
            batch.y,
            shortened(algorithm.attack_after(self._epochs_over), self.state.share),
            algorithm.attack_target,
            criterion,
            epoch=self.run.epoch,
            task=algorithm.task,
            others=batch.others,
            autocast=self.accelerator.autocast,
        )

    @property
    def _epochs_over(self) -> float:
        return self.run.step / self.run.steps_per_epoch

    def _after_step(self) -> None:
        skipped = getattr(self.state.optimizer, "step_was_skipped", False)  # fp16 found an overflow
        self.run.step += 1
        if not skipped:
            self.state.scheduler.after_step(self.run.step)
        if self.averaged is not None:
            self.averaged.update(self.student, step=self.run.step)
            self._same_gamma()
        for callback in self.callbacks:
            callback.on_step_end(self.run)
        every = self.settings.checkpointing.every
        if every is not None and self.run.step % every == 0:
            self._save()

    def _same_gamma(self) -> None:
        """γ is a setting: the averaged student has the student's, not an average of it."""
        for (_, mine), (_, theirs) in zip(
            stochastic_layers(self.averaged.module), stochastic_layers(self.student), strict=True
        ):
            mine.gamma.copy_(theirs.gamma)

    def _finish_epoch(self, seconds: float) -> None:
        run, state = self.run, self.state
        figures = self._figures(seconds)
        if self.watch is not None:
            accuracy, collapsed = self.watch.epoch_over()
            figures = replace(figures, guard_accuracy=accuracy, collapsed=collapsed)
        run.history.append(figures)
        run.history.keep_best(self.model)
        run.epoch += 1
        state.batch = 0
        state.tally = Tally(self.accelerator.device)
        for schedule in self.schedules.values():
            schedule.step(self.student)
        if self.schedules and self.averaged is not None:
            self._same_gamma()
        self.state.scheduler.after_epoch(run.history[-1])
        self._track(run.history[-1])
        for callback in self.callbacks:
            callback.on_epoch_end(run)
        if self.averaged is not None and (run.stop or run.epoch == run.epochs):
            self._refresh_averaged()
        self._save()

    def _refresh_averaged(self) -> None:
        """The run is over: what is averaged gets statistics of its own."""
        data, rank, device = self.settings.data, self.accelerator.process_index, self.accelerator.device
        seed_all(data.seed, self.run.epoch, f"averaged {rank}")
        batches = itertools.islice(Batches(data.train_loader, data.seed, self.run.epoch, rank, device), PASSES)
        steps = (lambda model, batch=batch: self._step(model, self._read(batch)) for batch in batches)
        refresh_statistics(
            self.averaged.module, self.student, self.settings.algorithm.objective, steps, self.accelerator
        )

    def _save(self) -> None:
        store = self.settings.checkpointing.store
        if store is not None and (path := take(self.state, store)) is not None:
            for callback in self.callbacks:
                callback.on_checkpoint(self.run, path)

    # Figures

    def _figures(self, seconds: float) -> Epoch:
        means, perturbation = self.state.tally.means(over=self.accelerator), self.state.perturbation
        val_accuracy, val_robust = self.validation()
        layers = list(stochastic_layers(self.student))
        gammas = [layer.gamma for _, layer in layers]
        sigmas = torch.stack([layer.sigma.detach().mean() for _, layer in layers]).tolist() if layers else []
        return Epoch(
            epoch=self.run.epoch + 1,
            **means._asdict(),
            val_accuracy=val_accuracy,
            val_robust_accuracy=val_robust,
            gamma=torch.stack(gammas).mean().item() if layers else None,
            sigma={name: sigma for (name, _), sigma in zip(layers, sigmas, strict=True)},
            lr=self.state.optimizer.param_groups[0]["lr"],
            seconds=seconds,
            unperturbed=0 if perturbation is None else perturbation.epoch_over(),
            eps=self.settings.algorithm.eps_after(self._epochs_over),
        )

    def _track(self, epoch: Epoch) -> None:
        accuracies = ("accuracy", "robust_accuracy", "val_accuracy", "val_robust_accuracy", "guard_accuracy")
        names = ("loss", *accuracies, "gamma", "eps", "lr")
        values = {name: value for name in names if (value := getattr(epoch, name)) is not None}
        values |= {f"sigma/{layer}": sigma for layer, sigma in epoch.sigma.items()}
        self.accelerator.log(values, step=self.run.step)

    def _so_far(self) -> dict[str, str]:
        """The epoch's figures up to this batch."""
        means = self.state.tally.means()
        figures = {"loss": f"{means.loss:.3f}"}
        if means.accuracy is not None:
            figures["acc"] = f"{means.accuracy:.1%}"
        if means.robust_accuracy is not None:
            figures["robust"] = f"{means.robust_accuracy:.1%}"
        if (eps := self.settings.algorithm.eps_after(self._epochs_over)) is not None:
            figures["ε"] = f"{eps:.3g}"
        return figures | {_SYMBOLS[name]: f"{schedule.value:.3g}" for name, schedule in self.schedules.items()}

    # Batches

    def _read(self, batch: Any) -> Batch:
        """A batch on the device, images in the run's memory format, targets as the task takes them."""
        found = self.settings.data.read(batch).to(self.accelerator.device)
        x = found.x
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.settings.execution.memory_format)
        return found._replace(x=x, y=self.settings.algorithm.task.read_target(found.y))
