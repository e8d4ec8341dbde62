"""Every public name of docs/api.md has an example in its docstring, and it runs after the block that opens the page."""

from __future__ import annotations

import copy
import doctest
import functools
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import stocnoise
from stocnoise.conversion.finding import catalog

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")

WITHOUT = {
    "Site": "a record, in the example of find_sites",
    "Summary": "a record, in the example of summary",
    "MixtureFit": "a record, in the example of fit_mixture",
    "Prediction": "a record, in the example of predict",
}


def _shown() -> dict[str, Any]:
    """What the page shows, a module's members one by one; errors and warnings are for reading."""
    found: dict[str, Any] = {}
    for name in re.findall(r"^::: stocnoise\.(\S+)$", PAGE, re.MULTILINE):
        value = functools.reduce(getattr, name.split("."), stocnoise)
        members = {f"{name}.{member}": getattr(value, member) for member in getattr(value, "__all__", ())}
        found |= members or {name: value}
    return {
        name: value
        for name, value in found.items()
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, BaseException))
    }


@functools.cache
def _prelude() -> dict[str, Any]:
    block = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(compile(block.group(1), "docs/api.md", "exec"), names)
    return names


def _namespace() -> dict[str, Any]:
    """As after the page's first block, for this example alone."""
    return {
        name: copy.deepcopy(value) if isinstance(value, torch.nn.Module) else value
        for name, value in _prelude().items()
    }


def test_every_name_has_an_example_that_should() -> None:
    without = {name for name, value in _shown().items() if ">>>" not in (value.__doc__ or "")}
    assert without == set(WITHOUT), "add an Example: section of a line to three to the docstring"


@pytest.mark.parametrize("name", [name for name in _shown() if name not in WITHOUT])
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "_registered", {})
    text = inspect.cleandoc(_shown()[name].__doc__ or "")
    test = doctest.DocTestParser().get_doctest(text, _namespace(), name, None, None)
    runner, said = doctest.DocTestRunner(verbose=False), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of four images nothing can be said; that is told
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
