"""What a file in `models/` must say, and how it is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from examples.paper.scale import Scale
from stocnoise import Attack

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Defence:
    """A defence as its file has it.

    TITLE, SOURCE: its name, and the paper.
    CLAIMED: how the paper attacked it, in words.
    build(teacher, x): the untrained model, from a trained network of pixels that may be changed; x (2, …) are inputs.
    training(scale): keywords of `stocnoise.finetune`, beside the scale's.
    attack(model, eps): the paper's attack at ε.
    """

    name: str
    title: str
    source: str
    claimed: str
    build: Callable[[nn.Module, Tensor], nn.Module]
    training: Callable[[Scale], dict[str, Any]]
    attack: Callable[[nn.Module, float], Attack]


_WORDS, _FUNCTIONS = ("TITLE", "SOURCE", "CLAIMED"), ("build", "training", "attack")


def names() -> list[str]:
    """Those in `models/`."""
    return sorted(path.stem for path in MODELS.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Defence:
    """One of `names()`, or a file of your own.

    Raises:
        ValueError: there is no such file, or it does not say what it must.
    """
    path = Path(name) if name.endswith(".py") else MODELS / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"no defence {name!r}: choose from {', '.join(names())}, or give a .py file of your own")
    module = _module(path)
    for needed in (*_WORDS, *_FUNCTIONS):
        found = getattr(module, needed, None)
        if not (isinstance(found, str) if needed in _WORDS else callable(found)):
            what = "a string" if needed in _WORDS else "a function"
            raise ValueError(f"{path} must have {needed}, {what}: see examples/defences/defence.py")
    return Defence(path.stem, module.TITLE, module.SOURCE, module.CLAIMED, module.build, module.training, module.attack)


def _module(path: Path) -> ModuleType:
    if path.parent == MODELS:
        return importlib.import_module(f"examples.defences.models.{path.stem}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
