"""What right calls are made of, and all that a wrong one must leave as it is."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise.attacks.target import Target
from stocnoise.conversion.finding import catalog
from stocnoise.tasks import as_task
from stocnoise.training import Best, Run
from stocnoise.training.best import Kept


def _model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3), nn.Identity()
    )


def batches(images: Tensor, labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=4)


class World:
    """Models, data and files of a right call, all of them small."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.images = torch.rand(4, 3, 6, 6)
        self.labels = torch.tensor([0, 1, 2, 0])
        self.loader = batches(self.images, self.labels)
        self.model = _model()
        self.student = stocnoise.convert(self.model, self.images)
        stocnoise.calibrate(self.student, self.loader)
        self.layer = self.student[2]
        self.noisy = stocnoise.with_input_noise(_model(), 0.5).eval()
        self.wrapped = nn.DataParallel(self.student)
        self.teacher = _model().eval()
        self.mixture = stocnoise.mix(self.student, self.teacher)
        self.attack = stocnoise.PGD(eps=0.1, steps=1)
        self.step = stocnoise.Step(self.student, self.images, self.labels, self.attack)
        self.target = Target(self.student, torch.float32, 1, as_task("multiclass"))
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.1)
        self.run = Run(self.student, self.optimizer, epochs=1, steps_per_epoch=2)
        self.schedule = stocnoise.GammaSchedule(epochs=2)
        self.history = stocnoise.History()
        self.best = Best(1, 0.5, 0.5, Kept(1, copy.deepcopy(self.student.state_dict())))
        self.sigma = torch.ones(3)
        self.gamma = torch.tensor(0.01)
        self.seed = torch.tensor([7])
        self.moments = torch.ones(1, 3, 3)
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir()
        (self.checkpoints / "step-00000001.safetensors").touch()
        self.file = folder / "student.safetensors"
        stocnoise.save(self.student, self.file)
        self.report = stocnoise.evaluate(
            self.student, self.loader, ["random"], 0.1, eot=1, steps=1, draws=2, checks=False, progress=False
        )
        self.counted = stocnoise.evaluate(
            self.student, self.loader, ["square"], 0.1, queries=2, draws=2, checks=False, progress=False
        )
        self.saved = folder / "certificate.json"
        self.certificate = stocnoise.certify(
            self.noisy, self.loader, n0=2, n=20, alpha=0.01, progress=False, path=self.saved
        )
        self.hub = stocnoise.hub.save(self.student, folder / "hub")


def state(world: World) -> dict[str, Any]:
    """Everything that a refused call must not touch, under names; `differences` compares two."""
    found: dict[str, Any] = {"PyTorch's random state": torch.get_rng_state()}
    for name, value in vars(world).items():
        if isinstance(value, nn.Module):
            found |= {f"{name}, {what}": part for what, part in _of_model(value)}
        elif isinstance(value, Tensor):
            found[name] = value.clone()
    found["the schedule"] = world.schedule.state_dict()
    found["the history"] = world.history.to_dict()
    found["the step"] = world.step.images, world.step.correct
    found["the optimiser"] = world.optimizer.state_dict()["state"]
    found["Python's random state"] = random.getstate()
    _, words, *rest = np.random.get_state()
    found["NumPy's random state"] = words.tolist(), rest
    found["grad mode"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    found["autocast"] = torch.is_autocast_enabled("cpu")
    found["what is registered"] = dict(catalog._registered)
    found["files"] = sorted((str(path), path.stat().st_size * path.is_file()) for path in world.folder.rglob("*"))
    return found


def _of_model(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        yield key, value.detach().clone()
        yield f"whether {key} is trained", value.requires_grad
        yield f"the gradient of {key}", None if value.grad is None else value.grad.clone()
    for name, module in model.named_modules():
        yield f"{name} itself", id(module)
        yield f"the class of {name}", type(module)
        for attribute in ("training", "noise", "sigma_frozen", "fixed_seed", "blend"):
            yield f"{attribute} of {name}", getattr(module, attribute, None)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            yield f"{hooks} of {name}", dict(getattr(module, hooks))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not as it was."""
    return [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if dataclasses.is_dataclass(first):
        return first is second
    return bool(first == second)
