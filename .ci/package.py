"""Build sdist and wheel, and try the wheel away from the checkout, without extras and with each.

Each environment is made fresh and holds the wheel and links to the distributions that the wheel asks for, taken from
the environment that runs this: a forgotten dependency is missing there, and nothing is downloaded twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent


def run(*command: str | Path, cwd: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name the checkout
    subprocess.run(list(map(str, command)), cwd=cwd, check=True, env=clean)


def needed(wheel: metadata.Distribution, extra: str) -> dict[str, metadata.Distribution]:
    """Every distribution that `wheel` asks for with this extra ("" for none), theirs included."""
    found: dict[str, metadata.Distribution] = {}
    ahead = [(wheel, extra)]
    seen: set[tuple[str, str]] = set()
    while ahead:
        distribution, extra = ahead.pop()
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            found[name] = metadata.distribution(name)
            wanted = {(name, one) for one in ("", *requirement.extras)} - seen
            seen |= wanted
            ahead += [(found[name], one) for _, one in wanted]
    return found


def link(distribution: metadata.Distribution, site: Path) -> None:
    """The top folders and files of `distribution`, as links in `site`; what several share, such as `nvidia`, once."""
    for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
        target = Path(str(distribution.locate_file(top)))
        if not (site / top).exists() and target.exists():
            (site / top).symlink_to(target)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", work / "dist", HERE.parent, cwd=work)
        (wheel,) = (work / "dist").glob("*.whl")
        for extra in ("", "examples", "foolbox", "autoattack", "hub"):
            home = work / f"with-{extra or 'nothing'}"
            venv.create(home, with_pip=False)
            python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
            pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check"]
            run(*pip, "--no-deps", "--no-index", wheel, cwd=work)
            (site,) = {path.parent for path in home.rglob("stocnoise-*.dist-info")}
            (installed,) = metadata.distributions(name="stocnoise", path=[str(site)])
            for distribution in needed(installed, extra).values():
                link(distribution, site)
            run(python, "-I", HERE / "smoke.py", site, extra, cwd=work)


if __name__ == "__main__":
    main()
