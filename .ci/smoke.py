"""What must work in a fresh environment: `smoke.py SITE-PACKAGES [EXTRA]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

import stocnoise

MODULES = {"examples": "matplotlib", "foolbox": "foolbox", "autoattack": "pyautoattack"}


def refused(call: Callable[[], object], module: str) -> None:
    """`call` says which extra brings `module`."""
    try:
        call()
    except ImportError as error:
        assert module in str(error) and "stocnoise[" in str(error), error
    else:
        raise AssertionError(f"nothing asked for {module}, which is not there")


def main() -> None:
    site, extra = Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else ""
    package = Path(stocnoise.__file__).resolve().parent
    assert package == site / "stocnoise", package
    assert (package / "py.typed").exists()
    if find_spec("triton"):
        from stocnoise.kernels import rows

        assert Path(rows.__file__).resolve().parent == package / "kernels", rows.__file__

    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    data = [(torch.rand(16, 3, 8, 8), torch.randint(4, (16,))) for _ in range(2)]
    student = stocnoise.convert(teacher, data[0][0])
    stocnoise.finetune(student, data, epochs=1, attack=stocnoise.PGD(eps=0.1, steps=1), progress=False)
    report = stocnoise.evaluate(student, data, ["pgd"], [0.1], steps=2, draws=2, checks=False, progress=False)
    assert report["pgd", 0.1].asr.value >= 0
    stocnoise.save(student, "student.safetensors")
    again = stocnoise.load("student.safetensors", teacher)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())

    if extra == "hub":
        stocnoise.hub.save(student, "folder")
        stocnoise.hub.load("folder", teacher)

    uses = {
        "examples": lambda: report.plot(path="asr.png"),
        "foolbox": lambda: stocnoise.Boundary(steps=2)(student, *data[0]),
        "autoattack": lambda: stocnoise.AutoAttack(eps=0.1)(student, *(part[:2] for part in data[0])),
    }
    for name, use in uses.items():
        if name == extra:
            use()
        elif find_spec(MODULES[name]) is None:
            refused(use, MODULES[name])
    if not extra:
        assert not any(map(find_spec, MODULES.values())), "an environment without extras has one"
        command = shutil.which("stocnoise", path=sysconfig.get_path("scripts"))
        assert command, "the command is not installed"
        subprocess.run([command, "inspect", "resnet10t", "--json"], check=True, stdout=subprocess.DEVNULL)
    print(f"{package.parent}, with {extra or 'nothing'}: works")


if __name__ == "__main__":
    main()
