"""The loop of Algorithm 1 over prepared objects; `run.finetune` prepares them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stocnoise.attacks import Attack
from stocnoise.attacks.base import as_labels, attack_mode, class_logits
from stocnoise.controls import stochastic_layers
from stocnoise.errors import NonFiniteError
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.checkpoints import Checkpoints
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.health import non_finite_origin
from stocnoise.training.history import Epoch
from stocnoise.training.objectives import AttackTarget, Criterion, Objective, Step
from stocnoise.training.optim import Scheduler
from stocnoise.training.randomness import Batches, seed_all, set_random_state
from stocnoise.training.snapshot import restore, take

if TYPE_CHECKING:
    from accelerate import Accelerator

# What an epoch adds up: loss × examples, examples, right and all of the clean ones, right and all of the adversarial.
TALLY = 6


@dataclass(kw_only=True)
class Trainer:
    """Everything a run needs, prepared by Accelerate where it must be."""

    run: Run
    model: nn.Module  # what is called: the student, or DDP or FSDP around it
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    loader: Iterable[Any]
    val_loader: Iterable[Any] | None
    accelerator: Accelerator
    objective: Objective
    attack: Attack
    val_attack: Attack
    attack_target: AttackTarget
    criterion: Criterion
    gamma: GammaSchedule | None
    averaged: Any  # timm's ModelEmaV3, or None
    callbacks: Sequence[Callback]
    checkpoints: Checkpoints | None
    checkpoint_every: int | None
    max_grad_norm: float
    memory_format: torch.memory_format
    seed: int
    settings: dict[str, Any]
    progress: bool

    def __post_init__(self) -> None:
        self.student = self.run.student
        self.batch = 0  # batches of the current epoch that are over
        self.tally = self._new_tally()
        self.resumed_random: dict[str, Any] | None = None

    def train(self, resume: bool) -> None:
        """All epochs, or those that the newest checkpoint leaves."""
        for _, layer in stochastic_layers(self.student):
            layer.notice.given = True  # σ = 0 is how Algorithm 1 begins
        if self.gamma is not None:
            self.gamma.apply(self.student)
        if resume and self.checkpoints is not None and (found := self.checkpoints.newest()) is not None:
            self.resumed_random = restore(self, *found)
        while self.run.epoch < self.run.epochs and not self.run.stop:
            self._epoch()

    def _epoch(self) -> None:
        run, started = self.run, time.perf_counter()
        self.student.train()
        for callback in self.callbacks:
            callback.on_epoch_begin(run)
        rank, device = self.accelerator.process_index, self.accelerator.device
        seed_all(self.seed, run.epoch, f"train {rank}")
        batches = Batches(self.loader, self.seed, run.epoch, rank, device)
        # Exact even with augmentation and worker processes: what came before is loaded again and dropped.
        for _ in range(self.batch):
            next(batches)
        if self.resumed_random is not None:
            set_random_state(self.resumed_random, device)
            self.resumed_random = None
        bar = self._bar()
        for batch in batches:
            self._micro_batch(batch)
            self._show(bar)
        bar.close()
        self._finish_epoch(time.perf_counter() - started)

    def _micro_batch(self, batch: Any) -> None:
        x, y = self._images_and_labels(batch)
        with self.accelerator.accumulate(self.model):
            step = Step(self.model, x, y, self.attack, self.attack_target, self.criterion, epoch=self.run.epoch)
            loss = self.objective(step)
            self.accelerator.backward(loss)
            synchronised = self.accelerator.sync_gradients
            if synchronised:
                parameters = [p for p in self.model.parameters() if p.requires_grad]
                norm = self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm)
                self._check_finite(loss, norm, step)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.batch += 1
        self._count(step, loss)
        if synchronised:
            self._after_step()

    def _after_step(self) -> None:
        skipped = getattr(self.optimizer, "step_was_skipped", False)  # fp16 found an overflow
        if not skipped:
            self.scheduler.step()
        self.run.step += 1
        if self.averaged is not None:
            self.averaged.update(self.student, step=self.run.step)
            self._same_gamma()
        for callback in self.callbacks:
            callback.on_step_end(self.run)
        if self.checkpoint_every is not None and self.run.step % self.checkpoint_every == 0:
            self._save()

    def _same_gamma(self) -> None:
        """γ is a setting: the averaged student has the student's, not an average of it."""
        for (_, mine), (_, theirs) in zip(
            stochastic_layers(self.averaged.module), stochastic_layers(self.student), strict=True
        ):
            mine.gamma.copy_(theirs.gamma)

    def _finish_epoch(self, seconds: float) -> None:
        run = self.run
        run.history.append(self._figures(seconds))
        run.epoch += 1
        self.batch = 0
        self.tally = self._new_tally()
        if self.gamma is not None:
            self.gamma.step(self.student)
            if self.averaged is not None:
                self._same_gamma()
        self._track(run.history[-1])
        for callback in self.callbacks:
            callback.on_epoch_end(run)
        if self.checkpoints is not None:
            self._save()

    def _save(self) -> None:
        assert self.checkpoints is not None
        path = take(self)
        if path is not None:
            for callback in self.callbacks:
                callback.on_checkpoint(self.run, path)

    # Figures

    def _new_tally(self) -> Tensor:
        device = self.accelerator.device
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        return torch.zeros(TALLY, dtype=wide, device=device)

    def _count(self, step: Step, loss: Tensor) -> None:
        n = len(step.x)
        entries: list[Any] = [loss.detach() * n, n]
        for kind in ("clean", "adversarial"):
            entries += step.correct.get(kind, (0, 0))
        self.tally += torch.stack([torch.as_tensor(e, device=self.tally.device).to(self.tally) for e in entries])

    def _figures(self, seconds: float) -> Epoch:
        loss, seen, right, clean, right_adversarial, adversarial = self.accelerator.reduce(self.tally, "sum").tolist()
        val_accuracy, val_robust = self._validate()
        layers = list(stochastic_layers(self.student))
        gammas = [layer.gamma for _, layer in layers]
        sigmas = torch.stack([layer.sigma.detach().mean() for _, layer in layers]).tolist() if layers else []
        return Epoch(
            epoch=self.run.epoch + 1,
            loss=loss / max(seen, 1),
            accuracy=right / clean if clean else None,
            robust_accuracy=right_adversarial / adversarial if adversarial else None,
            val_accuracy=val_accuracy,
            val_robust_accuracy=val_robust,
            gamma=torch.stack(gammas).mean().item() if layers else None,
            sigma={name: sigma for (name, _), sigma in zip(layers, sigmas, strict=True)},
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=seconds,
        )

    def _validate(self) -> tuple[float | None, float | None]:
        """Accuracy and robust accuracy on `val_loader`, one draw of the noise each."""
        if self.val_loader is None:
            return None, None
        right, robust, seen = 0, 0, 0
        rank, device = self.accelerator.process_index, self.accelerator.device
        for batch in Batches(self.val_loader, self.seed, self.run.epoch, rank, device):
            x, y = self._images_and_labels(batch)
            adversarial = self.val_attack(self.model, x, y)
            with attack_mode(self.student), torch.no_grad():
                hits = torch.stack([self._hits(x, y), self._hits(adversarial, y)], dim=1)
            hits = self.accelerator.gather_for_metrics(hits)
            right, robust, seen = right + hits[:, 0].sum(), robust + hits[:, 1].sum(), seen + len(hits)
        if seen == 0:
            raise ValueError("val_loader gave no batch")
        return float(right) / seen, float(robust) / seen

    def _hits(self, x: Tensor, y: Tensor) -> Tensor:
        return class_logits(self.model(x)).argmax(1) == as_labels(y)

    def _track(self, epoch: Epoch) -> None:
        names = ("loss", "accuracy", "robust_accuracy", "val_accuracy", "val_robust_accuracy", "gamma", "lr")
        values = {name: value for name in names if (value := getattr(epoch, name)) is not None}
        values |= {f"sigma/{layer}": sigma for layer, sigma in epoch.sigma.items()}
        self.accelerator.log(values, step=self.run.step)

    def _bar(self) -> Any:
        from tqdm import tqdm

        total = None
        with suppress(TypeError):
            total = len(self.loader)  # type: ignore[arg-type]
        hidden = not (self.progress and self.accelerator.is_local_main_process)
        name = f"epoch {self.run.epoch + 1}/{self.run.epochs}"
        return tqdm(total=total, initial=self.batch, desc=name, unit="batch", disable=hidden, mininterval=0.5)

    def _show(self, bar: Any) -> None:
        if bar.disable:
            return
        first = bar.n == 0
        # The bar is drawn twice a second: figures are fetched from the device no oftener.
        if bar.update() or first or bar.n == bar.total:
            bar.set_postfix(self._so_far())

    def _so_far(self) -> dict[str, str]:
        """The epoch's figures up to this batch."""
        loss, seen, right, clean, right_adversarial, adversarial = self.tally.tolist()
        figures = {"loss": f"{loss / max(seen, 1):.3f}"}
        if clean:
            figures["acc"] = f"{right / clean:.1%}"
        if adversarial:
            figures["robust"] = f"{right_adversarial / adversarial:.1%}"
        if self.gamma is not None:
            figures["γ"] = f"{self.gamma.value:.3g}"
        return figures

    # Batches

    def _images_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not (isinstance(batch, list | tuple) and len(batch) >= 2 and isinstance(batch[0], Tensor)):
            raise TypeError(f"the loader must give batches (images, labels), not {type(batch).__name__}")
        device = self.accelerator.device
        x = batch[0].to(device, non_blocking=True)
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.memory_format)
        return x, batch[1].to(device, non_blocking=True)

    def _check_finite(self, loss: Tensor, norm: Any, step: Step) -> None:
        """Stop before the weights are touched. An infinite gradient alone is what fp16's loss scaling deals with."""
        scaled = self.accelerator.scaler is not None
        size = loss.detach() if scaled else loss.detach() + torch.as_tensor(norm, device=loss.device)
        if math.isfinite(size.item()):
            return
        origin = non_finite_origin(self.student, step.images)
        if self.accelerator.num_processes > 1:
            origin += f" (process {self.accelerator.process_index})"
        newest = self.checkpoints.paths() if self.checkpoints is not None else []
        last = f"the last good checkpoint is {newest[-1]}" if newest else "there is no checkpoint"
        raise NonFiniteError(
            f"loss {loss.item():.3g}, gradient norm {float(norm):.3g} at step {self.run.step + 1} of epoch "
            f"{self.run.epoch + 1}: it began in {origin}. The weights are from before the step; {last}"
        )
