"""A scale of the reproduction: its data, network, budgets and seeds, read from a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

SCALES = Path(__file__).parent / "scales"


@dataclass(frozen=True)
class Data:
    source: str
    """"digits", "cifar10", "cifar100" (torchvision's), or "folder": an ImageFolder with train/ and test/."""
    image_size: int
    """Larger images are averaged down to this."""
    holdout: int
    """Training images that nobody trains on: settings are chosen, and overfitting is watched, on these."""
    train_images: int | None = None
    test_images: int | None = None
    mean: tuple[float, ...] = ()
    """By channel, what the network takes off its images; of the training images unless given."""
    std: tuple[float, ...] = ()
    augment: bool = True
    """Random crops and flips."""
    flip: bool = True
    workers: int = 0


@dataclass(frozen=True)
class Training:
    teacher_epochs: int
    epochs: int
    """Of every defence."""
    batch_size: int
    eps: float
    steps: int
    step_size: float
    gamma: float
    """γ_max of the student in the tables."""
    lr: float = 0.05
    beta: float = 6.0
    """Of TRADES."""
    l2p_noise_after: int = 1
    l2p_adversarial_after: int = 2
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Budget:
    """Of an attack: steps, each of so many draws, or, against a model without noise, with as many restarts."""

    steps: int
    tries: int


@dataclass(frozen=True)
class Attacks:
    images: int
    """Test images of the figures."""
    question_images: int
    """Test images on which the strongest attack answers the question that matters."""
    eps: tuple[float, ...]
    steps: int
    eot: int
    draws: int
    strongest: tuple[Budget, ...]
    """Of five attacks on all those images, then of one more at a time on those that are left."""
    l2: tuple[float, ...]
    """Of CW and Boundary, whose norm it is."""
    autoattack_images: int
    """With the first seed; 0 leaves it out."""
    averaged_samples: int = 16
    """Draws of the averaged predictor."""
    boundary_images: int = 500
    boundary_steps: int = 1000
    harder: tuple[Budget, ...] = ()
    """Of two attacks after the first five, for what `Studies.harder` names: a lead has to withstand them."""


@dataclass(frozen=True)
class Studies:
    """What is asked beside the paper's tables, and whether they are."""

    tables: bool = True
    """The paper's tables, curves and claims; False leaves the question that matters."""
    at_eps: tuple[float, ...] = ()
    """Adversarial training at other ε: with the one of the tables, its front of accuracy against robustness."""
    students: tuple[float, ...] = ()
    """Other γ_max of students held against that front."""
    student_eps: tuple[float, ...] = ()
    """Other ε of the tables' student, held against it too."""
    means: tuple[str, ...] = ()
    """What AT and the tables' student are given beside the noise, at equal cost: see `recipes.MEANS`."""
    mixtures: bool = False
    """AT and the tables' student, each mixed with its teacher."""
    harder: tuple[str, ...] = ()
    """Recipes with noise that are attacked harder, as one draw and as an average."""
    awp: float = 0.005
    """γ of adversarial weight perturbation."""
    guide: float = 0.1
    """Weight of the teacher's logits in the loss."""
    from_scratch: bool = False
    """AT, as another point of its front, and the tables' student without the teacher's weights."""
    gammas: tuple[float, ...] = ()
    """γ_max of the ablations; none leaves them out."""
    gamma_seeds: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()
    """Of AT and of the student, judged on held-out images."""
    long_epochs: int | None = None
    """A training that long, to see robust overfitting; None leaves it out."""
    plane_epochs: tuple[int, ...] = ()
    """Epochs after which the decision boundary is drawn; none leaves it out."""


@dataclass(frozen=True)
class Scale:
    name: str
    network: str
    width: int
    seeds: tuple[int, ...]
    note: str
    """What the figures must not be compared with."""
    data: Data
    training: Training
    attacks: Attacks
    studies: Studies = Studies()


def load(name: str) -> Scale:
    """The scale of that name, or of a TOML file.

    Raises:
        ValueError: there is no such scale, or a setting in it is unknown, missing or of the wrong kind.
    """
    path = Path(name) if name.endswith(".toml") else SCALES / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in SCALES.glob("*.toml")))
        raise ValueError(f"there is no scale {name!r}: choose from {known}, or give a TOML file")
    return _build(Scale, tomllib.loads(path.read_text()) | {"name": path.stem}, path.name)


def _build(cls: Any, given: dict[str, Any], where: str) -> Any:
    kinds = typing.get_type_hints(cls)
    required = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
    if wrong := sorted(given.keys() - kinds.keys()) + sorted(required - given.keys()):
        raise ValueError(f"{where}: unknown or missing: {', '.join(wrong)}")
    return cls(**{name: _value(kinds[name], value, f"{where}: {name}") for name, value in given.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`; a number may be written as a fraction, "8/255"."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if typing.get_origin(kind) is tuple:
        return tuple(_value(typing.get_args(kind)[0], each, where) for each in value)
    if kind is float:
        return float(Fraction(str(value)))
    if typing.get_origin(kind) is Literal:
        fits = value in typing.get_args(kind)
    else:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise ValueError(f"{where} cannot be {value!r}")
    return value
