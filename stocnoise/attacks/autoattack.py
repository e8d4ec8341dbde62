"""AutoAttack, the field's named number, through pyautoattack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stocnoise.attacks.base import BallAttack
from stocnoise.attacks.libraries import Classifier, Scale, check_classes, class_labels, contained, refuse, require
from stocnoise.attacks.target import Target
from stocnoise.checks import check_choice
from stocnoise.tasks import Task

Version = Literal["rand", "standard", "plus"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BallAttack):
    """AutoAttack with its published settings; needs `stocnoise[autoattack]`.

    "rand", for stochastic models, is APGD on the cross-entropy and on the DLR loss, 100 steps of 20 draws each. It
    keeps a point after one draw that misclassifies it, so what counts is the score of its images on fresh draws, which
    can be lower than that of plain PGD. "standard" and "plus" suit deterministic models only.

    The settings are made for ten classes or more and for images. With fewer classes the targeted parts take those that
    there are; APGD on the DLR loss needs three classes, its targeted form four, Square images (B, C, H, W): parts that
    cannot run are left out.

    Args:
        version: "rand", "standard" or "plus".
        eps, norm, task, output, bounds: see `BallAttack`. `eot` is not used: the version says how many draws.

    Source: Croce & Hein, ICML 2020.

    Example:
        >>> attack = stocnoise.AutoAttack(eps=8 / 255, version="rand")
    """

    version: Version = "rand"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("version", self.version, get_args(Version))

    def check_task(self, task: Task) -> None:
        check_classes(task, "AutoAttack")

    def run(self, target: Target, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        library = require("pyautoattack", "autoattack")
        refuse("AutoAttack", self.mask, target)
        y = class_labels(y)
        scale = Scale(x.float(), self.bounds)
        if self.norm == "l2" and not scale.pixels:
            raise ValueError("AutoAttack measures L2 in pixels of [0, 1]: with other bounds use PGD or APGD")
        images, classifier = scale.images(x.float()), Classifier(target, scale)
        with contained(x, generator) as seed:
            attack = library.AutoAttack(
                classifier,
                norm={"inf": "Linf", "l2": "L2"}[self.norm],
                eps=scale.eps(self.eps),
                version=self.version,
                seed=seed,
                device=x.device,
            )
            with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                classes = classifier(images[:1]).shape[1]
            _keep_what_can_run(attack, classes, image=x.dim() == 4)
            found, _ = attack.run_standard_evaluation(images, y, batch_size=len(x))
        return scale.inputs(found).to(x)


# The least number of classes that each part of AutoAttack can run with.
_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}


def _keep_what_can_run(attack: Any, classes: int, image: bool) -> None:
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(part.n_target_classes, classes - 1)
    attack.attacks_to_run = [
        name for name in attack.attacks_to_run if classes >= _CLASSES.get(name, 2) and (image or name != "square")
    ]
