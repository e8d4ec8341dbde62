"""What `import stocnoise` costs and needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stocnoise

ROOT = Path(__file__).parents[1]
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
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "stocnoise").rglob("__init__.py")}
    assert set(settings["packages"]) == found | {"stocnoise.kernels"}
    assert settings["package-dir"] == {"stocnoise.kernels": "kernels"}
    assert "py.typed" in settings["package-data"]["stocnoise"]
    assert (ROOT / "stocnoise" / "py.typed").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install .` leaves it, with another package that is called `kernels`."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "stocnoise", site / "stocnoise", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernels", site / "stocnoise" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "kernels").mkdir()
    (site / "kernels" / "__init__.py").write_text("")
    return site


EDITABLE = f"""
from importlib.util import spec_from_file_location
class Editable:
    def find_spec(name, path=None, target=None):
        if name == "stocnoise":
            return spec_from_file_location(name, {str(ROOT / "stocnoise" / "__init__.py")!r})
sys.meta_path.append(Editable)
"""


@pytest.mark.parametrize(
    ("first", "editable", "expected"),
    [
        (["checkout"], False, "checkout"),
        (["checkout", "site"], False, "checkout"),
        (["site"], False, "site"),
        (["site", "checkout"], False, "site"),
        ([], True, "checkout"),
        (["checkout"], True, "checkout"),
    ],
)
def test_package_and_kernels_come_from_one_place(first: list[str], editable: bool, expected: str, site: Path) -> None:
    """Out of a checkout alone, before or behind an installed copy, and installed as editable."""
    pytest.importorskip("triton")
    places = {"checkout": (ROOT, ROOT / "kernels"), "site": (site, site / "stocnoise" / "kernels")}
    printed = python(f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if f.__module__.startswith("_frozen")]  # without what is installed here
sys.path[:] = {[str(places[name][0]) for name in first]} + [p for p in sys.path if p not in ("", {str(ROOT)!r})]
{EDITABLE if editable else ""}
import stocnoise.kernels
from stocnoise.kernels import rows
stocnoise.kernels.forward
print(stocnoise.__file__, rows.__file__, sep="\\n")
""")
    root, kernels = places[expected]
    assert printed.splitlines() == [str(root / "stocnoise" / "__init__.py"), str(kernels / "rows.py")]


def test_the_folder_of_kernels_hides_no_package_of_that_name(site: Path) -> None:
    """Hugging Face's libraries look for one; without it they find a folder, which counts as absent."""
    code = "import importlib.util, sys; sys.path[:] = {}; print(importlib.util.find_spec('kernels').origin)"
    assert python(code.format([str(ROOT), str(site)])) == str(site / "kernels" / "__init__.py")
    assert python(code.format([str(ROOT)])) == "None"
