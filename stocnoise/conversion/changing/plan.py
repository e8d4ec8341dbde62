"""From the calls that were seen to the places that get a layer, and the edits that put it there."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from stocnoise.conversion.changing.edits import MethodEdit, digest, edits, is_wrapped, method_names
from stocnoise.conversion.changing.obstacles import obstacle
from stocnoise.conversion.changing.siblings import follow, unreached
from stocnoise.conversion.changing.sites import Kind, LeftAlone, Placement, Plan, Site
from stocnoise.conversion.filters import Filter
from stocnoise.conversion.finding.calls import Call, Record, name_of
from stocnoise.conversion.finding.invocation import Leaf, Node, grouped, grow, invocation, merge, walk
from stocnoise.conversion.finding.places import Views, is_plain_leaf, join, paths_of
from stocnoise.conversion.finding.trace import Helper, Method
from stocnoise.errors import UnsupportedActivationError


def make_plan(views: Views, records: Sequence[Record], include: Filter | None, exclude: Filter | None) -> Plan:
    """Plan the conversion of the skeleton `views.model`, of which `records` are."""
    plan = _Planner(views, records, include, exclude).plan()
    plan.views = views.paths([*(placement.path for placement in plan.placements), *plan.methods], plan.methods)
    return plan


class _Planner:
    def __init__(self, views: Views, records: Sequence[Record], include: Filter | None, exclude: Filter | None) -> None:
        self.views, self.model = views, views.model
        self.records = records
        self.include, self.exclude = include, exclude
        self.paths = paths_of(self.model)
        self.result = Plan()
        self.refused: list[str] = []
        self.counts: Counter[str] = Counter()
        self.order: dict[int, int] = {}
        self.first: dict[str, int] = {}  # by the path of a layer, when it is first called

    def plan(self) -> Plan:
        calls = list(itertools.chain.from_iterable(record.calls for record in self.records))
        self.order = {id(call): number for number, call in enumerate(calls)}
        alone = self._called_once()
        for module, group in grouped(calls, lambda call: call.module if call.module in alone else None).items():
            if module is not None:
                self._replace(module, group)
        self._rewrite(alone)
        if self.refused:
            listing = "\n".join(f"  {line}" for line in dict.fromkeys(self.refused))
            raise UnsupportedActivationError(
                f"these activations cannot be converted; change the code, or exclude them by name:\n{listing}"
            )
        self._follow_siblings(calls)
        self._leave_the_rest()
        self._leave_uncalled({call.module for call in calls})
        self.result.placements.sort(key=lambda placement: self.first[placement.path])
        return self.result

    def _called_once(self) -> set[nn.Module]:
        """The modules that are called from one place, and once each time that place's owner runs."""
        several: set[nn.Module] = set()
        seen: set[nn.Module] = set()
        for record in self.records:
            places: dict[nn.Module, Any] = {}
            invocations: set[Any] = set()
            for call in record.calls:
                if call.module is None:
                    continue
                seen.add(call.module)
                if call.trace is None:
                    continue
                place = (call.trace.owner, tuple((link.method, link.position) for link in call.trace.links))
                invocation = (call.module, call.trace.links[0].frame)
                if places.setdefault(call.module, place) != place or invocation in invocations:
                    several.add(call.module)
                invocations.add(invocation)
        return seen - several

    # Activation modules called once: replaced under their own name.

    def _replace(self, module: nn.Module, calls: list[Call]) -> None:
        path = self.paths[module]
        if self._filtered(path, calls[0], module):
            return
        by_mode = {call.activation for call in calls}
        place = path
        if not is_plain_leaf(module):  # its weights must keep their names
            self.result.entries[path] = _free("noise", _taken(module))
            place = join(path, self.result.entries[path])
        self._place(calls, "module", path, self._count(path), place, path, wrapped=len(by_mode) > 1)

    # Shared modules and functional calls: their owner's methods are rewritten.

    def _rewrite(self, alone: set[nn.Module]) -> None:
        roots: dict[tuple[nn.Module, Method | Helper], Node] = {}
        for record in self.records:
            calls = [call for call in record.calls if call.module not in alone]
            wanted = [
                call for call in calls if not self._filtered(name_of(call, self.paths), call, self._subject(call))
            ]
            wanted = [call for call in wanted if self._rewritable(call)]
            for (owner, method, _), group in grouped(wanted, invocation).items():
                node = grow(group, record.decided)
                roots[owner, method] = merge(roots[owner, method], node) if (owner, method) in roots else node
        for owner, nodes in grouped(roots.items(), lambda item: item[0][0]).items():
            self._edit(owner, [node for _, node in nodes])

    def _rewritable(self, call: Call) -> bool:
        reason = obstacle(call)
        if reason is not None:
            self.refused.append(f"{name_of(call, self.paths)}: {reason}")
        return reason is None

    def _edit(self, owner: nn.Module, roots: list[Node]) -> None:
        """Name the layers and the methods of one owner, and write down its edits."""
        path = self.paths[owner]
        taken = _taken(owner)
        nodes = roots + [node for root in roots for node in walk(root) if node is not root]
        names = method_names(nodes)
        leaves: list[Leaf] = []
        wrapped: set[int] = set()
        for children in (children for node in nodes for children in node.children.values()):
            here = [child for child in children if isinstance(child, Leaf)]
            leaves += here
            if is_wrapped(here):
                wrapped.update(map(id, here))
        attributes: dict[int, str] = {}
        for leaf in sorted(leaves, key=lambda leaf: self.order[id(leaf.calls[0])]):
            call = leaf.calls[0]
            name = name_of(call, self.paths)
            index = self._count(name)
            base = name.rpartition(".")[2]
            base = base if base.isidentifier() else call.name
            attribute = _free(f"{base}_{index}", taken)
            taken.add(attribute)
            attributes[id(leaf)] = attribute
            kind: Kind = "functional" if call.module is None else "shared"
            like = path if call.module is None else self.paths[call.module]
            self._place(leaf.calls, kind, name, index, join(path, attribute), like, id(leaf) in wrapped)
        self.result.methods[path] = tuple(
            MethodEdit(method, names[id(node)], tuple(edits(node, attributes, names, wrapped)), digest(method))
            for node in nodes
            for method in [node.method]
        )

    # Modules that were not reached.

    def _follow_siblings(self, calls: list[Call]) -> None:
        owners = {call.trace.owner for call in calls if call.trace is not None}
        reached = owners.union(*(record.entered for record in self.records))
        for path, like in unreached(self.model, reached):
            for placement, followed in follow(self.result, path, like, self._allowed):
                self.result.placements.append(placement)
                self.first[placement.path] = self.first[followed]

    def _allowed(self, name: str, path: str) -> bool:
        module = self.model.get_submodule(path)
        included = self.include is None or self.include(name, module)
        return included and not (self.exclude and self.exclude(name, module))

    # What both have in common.

    def _place(
        self, calls: list[Call], kind: Kind, name: str, index: int, path: str, like: str, wrapped: bool = False
    ) -> None:
        call = calls[0]
        channels = {c.shape[c.channel_dim] for c in calls}
        if len(channels) > 1:
            sizes = ", ".join(map(str, sorted(channels)))
            self.refused.append(f"{name}: one module calls this {call.name} with {sizes} channels; give each its own")
            return
        dims = len(call.shape)
        channel_dim = -1 if call.channel_dim == dims - 1 and dims > 2 else call.channel_dim
        site = Site(name, kind, call.name, call.shape[call.channel_dim], channel_dim, index, call.reason)
        inplace = any(c.inplace and c.read_again for c in calls)
        donated = not inplace and all(c.inplace and not c.given for c in calls)
        activation = None if wrapped else call.activation
        mine = {id(c) for c in calls}
        times = tuple(sum(id(c) in mine for c in record.calls) for record in self.records)
        self.result.placements.append(Placement(site, path, activation, inplace, donated, call.device, like, times))
        self.first[path] = min(self.order[id(c)] for c in calls)

    def _count(self, name: str) -> int:
        """How many sites of this name there were so far."""
        self.counts[name] += 1
        return self.counts[name] - 1

    def _subject(self, call: Call) -> nn.Module:
        """The module that filters are asked about."""
        if call.module is not None:
            return call.module
        return call.trace.owner if call.trace else self.model

    def _filtered(self, name: str, call: Call, module: nn.Module) -> bool:
        if (self.include is None or self.include(name, module)) and not (self.exclude and self.exclude(name, module)):
            return False
        self._leave(
            name, call.name, "excluded" if self.include is None or self.include(name, module) else "not included"
        )
        return True

    def _leave_the_rest(self) -> None:
        for left in itertools.chain.from_iterable(record.left for record in self.records):
            self._leave(self.paths.get(left.module, "") if left.module is not None else "", left.name, left.reason)

    def _leave_uncalled(self, called: set[nn.Module | None]) -> None:
        left = {left.module for record in self.records for left in record.left}
        called = called.union(*(record.entered for record in self.records))
        called |= {self.model.get_submodule(placement.like) for placement in self.result.placements}
        called |= {copy for copy, original in self.views.copied.items() if original in called}
        for module, path in self.paths.items():
            kind = type(module)
            is_activation = kind.__module__ == nn.ReLU.__module__ and is_plain_leaf(module)
            inside = any(path.startswith(f"{entered}.") for entered in self.result.entries)
            if is_activation and not inside and module not in called and module not in left:
                self._leave(path, kind.__name__.lower(), "never called with this example input")

    def _leave(self, name: str, activation: str, reason: str) -> None:
        left = LeftAlone(name, activation, reason)
        if left not in self.result.left:
            self.result.left.append(left)


def _taken(module: nn.Module) -> set[str]:
    """The names of all attributes of `module`."""
    held = (vars(module), dir(type(module)), module._modules, module._parameters, module._buffers)
    return set().union(*held)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
