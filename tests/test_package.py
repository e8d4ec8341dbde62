"""What `import stocnoise` costs and needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import stocnoise

HEAVY = ("timm", "torchvision", "triton", "accelerate", "safetensors", "matplotlib", "sklearn", "scipy", "foolbox")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_torch_and_no_other_heavy_library() -> None:
    loaded = python(
        f"import torch, sys; before = set(sys.modules); import stocnoise; "
        f"print([m for m in {HEAVY} if m in set(sys.modules) - before])"
    )
    assert loaded == "[]"


def test_it_works_where_triton_and_the_extras_cannot_be_imported() -> None:
    code = f"""
import sys
import tomllib
from pathlib import Path
sys.modules.update(dict.fromkeys({HEAVY}))  # importing a module that is None there fails
import torch, stocnoise
student = stocnoise.convert(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), torch.zeros(2, 3))
student(torch.randn(8, 3)).sum().backward()
print(int(student[1].num_batches_tracked))
"""
    assert python(code) == "1"


def test_everything_public_is_there_and_documented() -> None:
    for name in stocnoise.__all__:
        thing = getattr(stocnoise, name)
        assert thing.__doc__, f"{name} has no docstring"
    assert sorted(stocnoise.__all__) == sorted(set(stocnoise.__all__))


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert version("stocnoise") == stocnoise.__version__


def test_the_wheel_holds_every_package_and_the_marker_of_types() -> None:
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(init.parent.relative_to(root).parts) for init in (root / "stocnoise").rglob("__init__.py")}
    assert set(settings["packages"]) == found | {"stocnoise.kernels"}
    assert settings["package-dir"] == {"stocnoise.kernels": "kernels"}
    assert "py.typed" in settings["package-data"]["stocnoise"]
    assert (root / "stocnoise" / "py.typed").exists()
