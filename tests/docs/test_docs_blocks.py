"""Every block of Python in the README and in docs/ runs as it stands, a page's blocks one after another.

What a reader brings along is there under the names that the pages use: a small model, loaders of a few small images.
Numbers of steps, draws and epochs are cut down; everything else is the call as it is printed.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST = {"epochs": 1, "eot": 2, "steps": 2, "draws": 2, "max_images": 2, "check_images": 2, "progress": False}
IF_ASKED = {"queries": [4, 8]}


def blocks(page: Path) -> list[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found.group(1)) for found in BLOCK.finditer(text)]


def in_short(function: Any) -> Any:
    """The function with its numbers cut down to `MOST`, whatever was asked for, and to `IF_ASKED` where they are."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def short(*args: Any, **kwargs: Any) -> Any:
        less = {name: value for name, value in MOST.items() if name in known}
        return function(*args, **kwargs | less | {name: IF_ASKED[name] for name in kwargs if name in IF_ASKED})

    return short


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the pages speak of without making it."""
    monkeypatch.chdir(tmp_path)
    create = timm.create_model
    # timm's own tiny model, whatever is asked for: nothing is downloaded
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **more: create("test_resnet", **more))
    monkeypatch.setattr(stocnoise, "finetune", in_short(stocnoise.finetune))
    monkeypatch.setattr(stocnoise, "evaluate", in_short(stocnoise.evaluate))
    monkeypatch.setattr(stocnoise, "fit_mixture", in_short(stocnoise.fit_mixture))
    torch.manual_seed(0)
    model = stocnoise.normalized(create("test_resnet", num_classes=10))
    student = stocnoise.convert(model)
    images = torch.rand(2, 3, 32, 32)
    data = TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4))
    stocnoise.calibrate(student, [images])
    report = stocnoise.evaluate(student, DataLoader(data, 2), ["pgd"], [8 / 255])
    return {
        "stocnoise": stocnoise,
        "F": F,
        "nn": nn,
        "model": model,
        "teacher": model,
        "student": student,
        "images": images,
        "labels": torch.arange(2),
        "train_loader": DataLoader(data, 2),
        "test_loader": DataLoader(data, 2),
        "val_loader": DataLoader(data, 2),
        "epochs": 1,
        "optimizer": torch.optim.SGD(student.parameters(), 0.01),
        "report": report,
        "other_report": report,
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, stand_ins: dict[str, Any]) -> None:
    name = page.relative_to(ROOT)
    if 'teacher="resnet18"' in page.read_text(encoding="utf-8"):  # what is saved is then really of that name
        stand_ins["student"] = stocnoise.convert(stocnoise.normalized(timm.create_model("resnet18")))
    for line, source in blocks(page):
        code = compile("\n" * line + source, str(name), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two images nothing can be said; that is told
            exec(code, stand_ins)


def test_every_public_name_is_in_the_reference_once() -> None:
    named = re.findall(r"^::: stocnoise\.(\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    hub = {f"hub.{name}" for name in stocnoise.hub.__all__}
    assert sorted(named) == sorted((set(stocnoise.__all__) - {"hub"}) | hub)


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in PAGES if page.parent.name == "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
