"""From a recipe to a trained network, once: what is finished is read, what was interrupted goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import stocnoise
from examples.paper import plane
from examples.paper.images import Split, batches
from examples.paper.networks import network, renamed
from examples.paper.recipes import Recipe
from examples.paper.recipes import teacher as teachers
from examples.paper.scale import Scale
from stocnoise.storage import replacing
from stocnoise.training import Epoch


def folder(work: Path, scale: Scale, seed: int, recipe: str) -> Path:
    return work / scale.name / f"seed{seed}" / recipe


def untrained(scale: Scale, split: Split, recipe: Recipe, seed: int) -> nn.Module:
    """The network of a recipe with new weights; the same for a seed, whatever the recipe."""
    torch.manual_seed(seed)
    bare = network(scale.network, scale.width, split.channels, split.classes)
    model = stocnoise.normalized(bare, split.mean, split.std)
    if recipe.layer is None:
        return model
    return stocnoise.convert(model, split.test.everything()[0][:2], layer=recipe.layer)


def fine_tuned(model: nn.Module, scale: Scale, split: Split, seed: int, home: Path, **asked: Any) -> nn.Module:
    """The model trained as the scale says, but for what is `asked` of `finetune`; once: `home` keeps it."""
    weights = home / "model.safetensors"
    if not weights.exists():
        settings = scale.training
        loader = split.loader(settings.batch_size, scale.data.workers)
        if any(stocnoise.stochastic_layers(model)):
            stocnoise.calibrate(model, loader)
        given: dict[str, Any] = {
            "epochs": settings.epochs,
            "lr": settings.lr,
            "precision": settings.precision,
            "channels_last": settings.channels_last,
            "seed": seed,
            "checkpoint_dir": home / "checkpoints",
            "keep_checkpoints": 1,
            "resume": True,
            "progress": False,
        }
        history = stocnoise.finetune(model, loader, **given | asked)
        _write(home, model, {"history": [{"epoch": e.epoch, **_figures(e)} for e in history]})
        shutil.rmtree(home / "checkpoints", ignore_errors=True)
    model.load_state_dict(load_file(weights))
    return model.eval()


def teacher_of(scale: Scale, split: Split, seed: int, work: Path) -> nn.Module:
    """The scale's teacher, trained if it has not been yet."""
    recipe = teachers(scale)
    if not (folder(work, scale, seed, recipe.name) / "model.safetensors").exists():
        train(scale, split, recipe, seed, work)
    return trained(scale, split, recipe, seed, work)


def trained(scale: Scale, split: Split, recipe: Recipe, seed: int, work: Path) -> nn.Module:
    """The network that `train` left; FileNotFoundError if it did not."""
    model = untrained(scale, split, recipe, seed)
    model.load_state_dict(load_file(folder(work, scale, seed, recipe.name) / "model.safetensors"))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def take(weights: Path, scale: Scale, split: Split, recipe: Recipe, seed: int, work: Path) -> None:
    """Leave what `train` would, with weights from a safetensors file: a network's own, or what `train` has written.

    Names as public CIFAR ResNets have them are understood, and BatchNorm's counters may be missing.

    Raises:
        ValueError: they are not those of this scale's network.
    """
    model = untrained(scale, split, recipe, seed)
    given = renamed({name.removeprefix("model."): value for name, value in load_file(weights).items()})
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        model.load_state_dict(counters | {f"model.{name}": value for name, value in given.items()})
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {scale.network} of width {scale.width}: {error}") from error
    _write(folder(work, scale, seed, recipe.name), model, {"given": {"weights": weights.name}, "history": []})


def train(scale: Scale, split: Split, recipe: Recipe, seed: int, work: Path) -> None:
    """Train a recipe, or go on where an earlier call was killed; writes model.safetensors and training.json."""
    home = folder(work, scale, seed, recipe.name)
    model = untrained(scale, split, recipe, seed)
    if recipe.from_teacher:
        weights = load_file(folder(work, scale, seed, "teacher") / "model.safetensors")
        model.load_state_dict(weights, strict=recipe.layer is None)
    settings = scale.training
    planes = []
    if recipe.plane:
        images, labels = split.test.everything()
        planes = [plane.Plane(*plane.corners(images, labels), scale.studies.plane_epochs)]
    loader = split.loader(settings.batch_size, scale.data.workers)
    if recipe.layer is not None and recipe.from_teacher:
        stocnoise.calibrate(model, loader)
    attack = _attack(scale, recipe)
    history = stocnoise.finetune(
        model,
        loader,
        epochs=recipe.epochs,
        objective=_objective(scale, split, recipe, seed, work),
        attack=attack,
        gamma=None if recipe.gamma is None else stocnoise.GammaSchedule(init=min(0.01, recipe.gamma), max=recipe.gamma),
        attack_target="prediction" if recipe.objective == "l2p" else "label",
        lr=recipe.lr,
        val_loader=batches(split.holdout, None, 500) if recipe.watched else None,
        val_attack=stocnoise.PGD(eps=settings.eps, steps=10, eot=4 if recipe.layer else 1),
        awp=stocnoise.AWP(gamma=scale.studies.awp) if recipe.means == "awp" else None,
        callbacks=planes,
        seed=seed,
        precision=settings.precision,
        channels_last=settings.channels_last,
        compile=settings.compile,
        checkpoint_dir=home / "checkpoints",
        keep_checkpoints=1,
        resume=True,
        progress=False,
    )
    record: dict[str, Any] = {
        "given": recipe.to_dict(),
        "attack": str(attack),
        "history": [{"epoch": e.epoch, **_figures(e)} for e in history],
        **({"plane": planes[0].to_dict()} if planes else {}),
    }
    _write(home, model, record)
    shutil.rmtree(home / "checkpoints")


def _write(home: Path, model: nn.Module, record: dict[str, Any]) -> None:
    """The weights last: a unit is done when they are there."""
    home.mkdir(parents=True, exist_ok=True)
    with replacing(home / "training.json") as temporary:
        temporary.write_text(json.dumps(record))
    with replacing(home / "model.safetensors") as temporary:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


def _attack(scale: Scale, recipe: Recipe) -> stocnoise.PGD:
    if recipe.means == "one-step":
        return stocnoise.PGD.single_step(eps=recipe.eps)
    settings = scale.training
    # An average is of two draws a step.
    steps = settings.steps // 2 if recipe.means == "averaged" else settings.steps
    whole = settings.step_size * recipe.eps / settings.eps
    return stocnoise.PGD(eps=recipe.eps, steps=steps, step_size=whole * settings.steps / steps)


def _objective(scale: Scale, split: Split, recipe: Recipe, seed: int, work: Path) -> Any:
    settings, studies = scale.training, scale.studies
    if recipe.means == "guided":
        teacher = trained(scale, split, teachers(scale), seed, work)
        return stocnoise.Guided(teacher, weight=studies.guide, on="logits", objective=recipe.objective)
    if recipe.means == "averaged":
        return stocnoise.Averaged(samples=2)
    if recipe.objective == "trades":
        return stocnoise.Trades(beta=settings.beta)
    if recipe.objective == "l2p":
        return stocnoise.Learn2Perturb(
            noise_after=settings.l2p_noise_after, adversarial_after=settings.l2p_adversarial_after
        )
    return recipe.objective


def _figures(epoch: Epoch) -> dict[str, float | None]:
    """Of an epoch, what a reader of the results needs."""
    names = ("loss", "robust_accuracy", "val_accuracy", "val_robust_accuracy", "gamma", "seconds")
    return {name: None if (value := getattr(epoch, name)) is None else round(value, 4) for name in names}
