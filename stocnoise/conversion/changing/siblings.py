"""Modules that the example does not reach, such as experts of a mixture, converted like one that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from typing import Any

from torch import nn

from stocnoise.conversion.changing.sites import Placement, Plan
from stocnoise.conversion.finding.places import join, paths_of


def unreached(model: nn.Module, reached: Set[nn.Module]) -> Iterator[tuple[str, str]]:
    """Of the modules in lists and dicts of modules each that was not reached, with one of its like that was."""
    paths = paths_of(model)
    for parent in model.modules():
        if not isinstance(parent, (nn.ModuleList, nn.ModuleDict)):
            continue
        children = {join(paths[parent], name): child for name, child in parent._modules.items() if child is not None}
        called = {path: child for path, child in children.items() if not reached.isdisjoint(child.modules())}
        for path, child in children.items():
            if path not in called and paths[child] == path:
                like = next((other for other, its in called.items() if _outline(its) == _outline(child)), None)
                if like is not None:
                    yield path, like


def follow(plan: Plan, path: str, like: str, allowed: Callable[[str, str], bool]) -> Iterator[tuple[Placement, str]]:
    """Write into `plan` what it does to the module `like` for that at `path` too.

    Args:
        plan: what is planned already.
        path: of the module that was not reached.
        like: of the module that was.
        allowed: whether the filters let a site of this name be, given the path of the module that they are asked about.

    Returns:
        the new placements, each with the path of the layer that it follows.
    """

    def moved(name: str) -> str:
        return path + name.removeprefix(like)

    mine = [placement for placement in plan.placements if _within(placement.path, like)]
    if not all(allowed(moved(placement.site.name), moved(placement.like)) for placement in mine):
        return
    reason = f"like {like}, which the example reached"
    for old in mine:
        site = replace(old.site, name=moved(old.site.name), reason=reason)
        never = (0,) * len(old.calls)
        yield replace(old, site=site, path=moved(old.path), like=moved(old.like), calls=never), old.path
    plan.methods |= {moved(owner): edits for owner, edits in plan.methods.items() if _within(owner, like)}
    plan.entries |= {moved(owner): entry for owner, entry in plan.entries.items() if _within(owner, like)}


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _outline(module: nn.Module) -> list[Any]:
    return [
        (name, type(part), [(key, tuple(value.shape)) for key, value in part._parameters.items() if value is not None])
        for name, part in module.named_modules()
    ]
