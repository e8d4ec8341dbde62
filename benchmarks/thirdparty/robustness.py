"""RobustBench's model zoo, complete, without its weights; torchattacks and the like have no models."""

from __future__ import annotations

import sys

from benchmarks.thirdparty.entry import Entries, on_meta


def _robustbench() -> Entries:
    import pyautoattack
    import pyautoattack.state

    sys.modules["autoattack"] = pyautoattack  # as RobustBench's release still calls it
    sys.modules["autoattack.state"] = pyautoattack.state
    from robustbench.model_zoo.models import model_dicts

    for dataset, threats in model_dicts.items():
        side = 224 if dataset.value == "imagenet" else 32
        for threat, models in threats.items():
            for name, held in models.items():
                yield on_meta(f"{dataset.value}/{threat.value}/{name}", held["model"], 2, 3, side, side)


LIBRARIES = {"robustbench": _robustbench}
