"""The loop of Algorithm 1 over prepared objects; `run.finetune` prepares them."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack
from stocnoise.attacks.base import check_input
from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.controls import stochastic_layers
from stocnoise.errors import NonFiniteError
from stocnoise.training.averaged import PASSES, refresh_statistics
from stocnoise.training.borrowed import kept_in_eval
from stocnoise.training.health import non_finite_origin
from stocnoise.training.history import Epoch, History
from stocnoise.training.objectives import Step, checked_loss
from stocnoise.training.progress import ProgressBar
from stocnoise.training.randomness import Batches, seed_all, set_random_state
from stocnoise.training.settings import Settings
from stocnoise.training.snapshot import RunState, restore, take
from stocnoise.training.tally import Tally
from stocnoise.training.trial import Trial

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
        self.group = 0  # batches since the last optimiser step
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
            self._try_validation()
        while self.run.epoch < self.run.epochs and not self.run.stop:
            self._epoch()
        self.run.history.averaged = None if self.averaged is None else self.averaged.module
        return self.run.history

    def _epoch(self) -> None:
        run, data, started = self.run, self.settings.data, time.perf_counter()
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
        bar = ProgressBar(f"epoch {run.epoch + 1}/{run.epochs}", data.train_loader, self.state.batch, hidden)
        for batch in batches:
            if self.state.batch == data.batches:
                self._warn_of_length("more")
                break
            self._micro_batch(batch)
            bar.batch_done(self._so_far)
        bar.close()
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
        state, algorithm, optimisation = self.state, self.settings.algorithm, self.settings.optimisation
        found = self._read(batch)
        self.trial(self.model, found)
        step = self._step(self.model, found)
        with self.accelerator.accumulate(self.model):
            loss = checked_loss(algorithm.objective(step))
            self.accelerator.backward(loss)
            self.group += 1
            synchronised = self.accelerator.sync_gradients
            if synchronised:
                parameters = [p for p in self.model.parameters() if p.requires_grad]
                self._mean_of_group(parameters)
                limit = float("inf") if optimisation.max_grad_norm is None else optimisation.max_grad_norm
                norm = self.accelerator.clip_grad_norm_(parameters, limit)
                self._check_finite(loss, norm, step)
            state.optimizer.step()
            state.optimizer.zero_grad()
        state.batch += 1
        state.tally.add(step, loss)
        if synchronised:
            self._after_step()

    def _step(self, model: nn.Module, batch: Batch) -> Step:
        algorithm, criterion = self.settings.algorithm, self.settings.optimisation.criterion
        return Step(
            model,
            batch.x,
            batch.y,
            algorithm.attack,
            algorithm.attack_target,
            criterion,
            epoch=self.run.epoch,
            task=algorithm.task,
            others=batch.others,
        )

    def _mean_of_group(self, parameters: list[nn.Parameter]) -> None:
        """Accelerate divides by all the batches of a step, of which the last of an epoch may have fewer."""
        whole, self.group = self.accelerator.gradient_accumulation_steps / self.group, 0
        if whole != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(whole)

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
        run.history.append(self._figures(seconds))
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
        means = self.state.tally.means(over=self.accelerator)
        val_accuracy, val_robust = self._validate()
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
        )

    def _validate(self) -> tuple[float | None, float | None]:
        """Accuracy and robust accuracy on `val_loader`, one draw of the noise each."""
        data, task, val_attack = self.settings.data, self.settings.algorithm.task, self.settings.algorithm.val_attack
        if data.val_loader is None:
            return None, None
        clean, robust, seen = 0, 0, 0
        rank, device = self.accelerator.process_index, self.accelerator.device
        for batch in Batches(data.val_loader, data.seed, self.run.epoch, rank, device):
            x, y, others = self._read(batch)
            given: dict[str, Any] = {} if others is None else {"others": others}
            adversarial = val_attack(self.model, x, y, **given)
            with attack_mode(self.student), torch.no_grad():
                outputs = [ask(self.model, images, task, others) for images in (x, adversarial)]
            hits = torch.stack([task.right(output, y) for output in outputs], dim=1)
            hits = self.accelerator.gather_for_metrics(hits)
            clean, robust, seen = clean + hits[:, 0].sum(), robust + hits[:, 1].sum(), seen + len(hits)
        if seen == 0:
            raise ValueError("val_loader gave no batch")
        return float(clean) / seen, float(robust) / seen

    def _try_validation(self) -> None:
        """What would end the run after its first epoch, said before."""
        data, attack = self.settings.data, self.settings.algorithm.val_attack
        # Not Accelerate's loader, which counts on being gone through.
        loader = getattr(data.val_loader, "base_dataloader", data.val_loader)
        if loader is None:
            return
        rank, device = self.accelerator.process_index, self.accelerator.device
        batch = self._read(next(Batches(loader, data.seed, self.run.epoch, rank, device)))
        if isinstance(attack, Attack):
            check_input(batch.x, batch.y, attack.bounds)
        self.trial.check(self.model, batch)

    def _track(self, epoch: Epoch) -> None:
        names = ("loss", "accuracy", "robust_accuracy", "val_accuracy", "val_robust_accuracy", "gamma", "lr")
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
        return figures | {_SYMBOLS[name]: f"{schedule.value:.3g}" for name, schedule in self.schedules.items()}

    # Batches

    def _read(self, batch: Any) -> Batch:
        """A batch on the device, images in the run's memory format, targets as the task takes them."""
        found = self.settings.data.read(batch).to(self.accelerator.device)
        x = found.x
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.settings.execution.memory_format)
        return found._replace(x=x, y=self.settings.algorithm.task.read_target(found.y))

    def _check_finite(self, loss: Tensor, norm: Any, step: Step) -> None:
        """Stop before the weights are touched. An infinite gradient alone is what fp16's loss scaling deals with."""
        scaled = self.accelerator.scaler is not None
        size = loss.detach() if scaled else loss.detach() + torch.as_tensor(norm, device=loss.device)
        if math.isfinite(size.item()):
            return
        origin = non_finite_origin(self.student, step.images, step.others)
        if self.accelerator.num_processes > 1:
            origin += f" (process {self.accelerator.process_index})"
        store = self.settings.checkpointing.store
        newest = store.paths() if store is not None else []
        last = f"the last good checkpoint is {newest[-1]}" if newest else "there is no checkpoint"
        raise NonFiniteError(
            f"loss {loss.item():.3g}, gradient norm {float(norm):.3g} at step {self.run.step + 1} of epoch "
            f"{self.run.epoch + 1}: it began in {origin}. The weights are from before the step; {last}"
        )
