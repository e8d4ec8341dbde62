"""From the calls that were seen to the places that get a layer, and the edits that put it there."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stocnoise.activations import Activation
from stocnoise.conversion.catalog import ACTIVATIONS
from stocnoise.conversion.filters import Filter
from stocnoise.conversion.probe import Call, Record
from stocnoise.conversion.rewrite import Edit, MethodEdit, digest
from stocnoise.conversion.skeleton import is_plain_leaf
from stocnoise.conversion.source import Position, SourceUnavailableError
from stocnoise.conversion.trace import UNKNOWN, Link, Method, Reach
from stocnoise.errors import UnsupportedActivationError

Kind = Literal["module", "shared", "functional"]


@dataclass(frozen=True)
class Site:
    """A place where a model applies an activation.

    `name`: the path of the activation module; for a functional call the path of the module whose method makes it, and
    the function's name. `kind`: "module", called once and replaced under its own name; "shared", one of several calls
    of one module; "functional", a call of a function. `activation`: its name. `channels`: C, the length of σ.
    `channel_dim`: where C is in the input's shape. `index`: counts the sites that share a name, in the order of calls.
    """

    name: str
    kind: Kind
    activation: str
    channels: int
    channel_dim: int
    index: int


@dataclass(frozen=True)
class LeftAlone:
    """Something that looks like an activation and keeps as it was, with the reason."""

    name: str
    activation: str
    reason: str


@dataclass
class Placement:
    """A stochastic layer to be made, and where it goes."""

    site: Site
    path: str
    activation: Activation | None
    """None: noise alone, before the function or module that stays."""
    inplace: bool
    device: torch.device
    like: str
    """The path of the module that it takes its mode from, and its hooks if that is the activation."""
    calls: tuple[int, int]
    """How often it is called in a run in train mode and in eval mode."""


@dataclass
class Plan:
    """Everything that a conversion will do."""

    placements: list[Placement] = field(default_factory=list)
    methods: dict[str, tuple[MethodEdit, ...]] = field(default_factory=dict)
    """The edits of each owner, by its path."""
    left: list[LeftAlone] = field(default_factory=list)


@dataclass
class _Leaf:
    """The calls, one of each run, that are one site."""

    calls: list[Call]


@dataclass
class _Node:
    """A method of an owner as it ran: at each position, in order, the activations and further methods called there."""

    method: Method
    reach: Reach = "bound"
    """How it is called by the method above it."""
    children: dict[Position, list[_Leaf | _Node]] = field(default_factory=dict)
    scopes: dict[Position, set[int]] = field(default_factory=dict)


def make_plan(model: nn.Module, records: Sequence[Record], include: Filter | None, exclude: Filter | None) -> Plan:
    """Plan the conversion of `model`, the skeleton that `records`, of train and of eval mode, were taken from."""
    return _Planner(model, records, include, exclude).plan()


class _Planner:
    def __init__(
        self, model: nn.Module, records: Sequence[Record], include: Filter | None, exclude: Filter | None
    ) -> None:
        self.model = model
        self.records = records
        self.include, self.exclude = include, exclude
        self.paths = paths_of(model)
        self.result = Plan()
        self.refused: list[str] = []
        self.counts: Counter[str] = Counter()
        self.order: dict[int, int] = {}
        self.first: dict[str, int] = {}  # by the path of a layer, when it is first called

    def plan(self) -> Plan:
        self.in_train = {id(call) for call in self.records[0].calls}
        calls = list(itertools.chain.from_iterable(record.calls for record in self.records))
        self.order = {id(call): number for number, call in enumerate(calls)}
        alone = self._called_once()
        for module, group in _group(calls, lambda call: call.module if call.module in alone else None).items():
            if module is not None:
                self._replace(module, group)
        self._rewrite([[call for call in record.calls if call.module not in alone] for record in self.records])
        if self.refused:
            listing = "\n".join(f"  {line}" for line in dict.fromkeys(self.refused))
            raise UnsupportedActivationError(
                f"these activations cannot be converted; change the code, or exclude them by name:\n{listing}"
            )
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
        if not is_plain_leaf(module):
            self.refused.append(f"{path}: {type(module).__name__} holds parameters or modules of its own")
            return
        by_mode = {call.activation for call in calls}
        self._place(calls, "module", path, self._count(path), path, path, wrapped=len(by_mode) > 1)

    # Shared modules and functional calls: their owner's methods are rewritten.

    def _rewrite(self, records: list[list[Call]]) -> None:
        roots: dict[tuple[nn.Module, Method], _Node] = {}
        for calls in records:
            wanted = [
                call for call in calls if not self._filtered(name_of(call, self.paths), call, self._subject(call))
            ]
            wanted = [call for call in wanted if self._rewritable(call)]
            for (owner, method, _), group in _group(wanted, _invocation).items():
                node = _grow(group)
                roots[owner, method] = _merge(roots[owner, method], node) if (owner, method) in roots else node
        for owner, nodes in _group(roots.items(), lambda item: item[0][0]).items():
            self._edit(owner, [node for _, node in nodes])

    def _rewritable(self, call: Call) -> bool:
        reason = _obstacle(call)
        if reason is not None:
            self.refused.append(f"{name_of(call, self.paths)}: {reason}")
        return reason is None

    def _edit(self, owner: nn.Module, roots: list[_Node]) -> None:
        """Name the layers and the methods of one owner, and write down its edits."""
        path = self.paths[owner]
        taken = set(vars(owner)) | set(dir(type(owner))) | set(owner._modules) | set(owner._parameters)
        nodes = roots + [node for root in roots for node in _walk(root) if node is not root]
        names = _method_names(nodes)
        leaves: list[_Leaf] = []
        wrapped: set[int] = set()
        for children in (children for node in nodes for children in node.children.values()):
            here = [child for child in children if isinstance(child, _Leaf)]
            leaves += here
            if _is_wrapped(here):
                wrapped.update(map(id, here))
        attributes: dict[int, str] = {}
        for leaf in sorted(leaves, key=lambda leaf: self.order[id(leaf.calls[0])]):
            call = leaf.calls[0]
            name = name_of(call, self.paths)
            index = self._count(name)
            base = name.rpartition(".")[2]
            base = base if base.isidentifier() else call.name
            attribute = f"{base}_{index}"
            while attribute in taken:
                attribute += "_"
            taken.add(attribute)
            attributes[id(leaf)] = attribute
            kind: Kind = "functional" if call.module is None else "shared"
            like = path if call.module is None else self.paths[call.module]
            self._place(leaf.calls, kind, name, index, _join(path, attribute), like, id(leaf) in wrapped)
        self.result.methods[path] = tuple(
            MethodEdit(method, names[id(node)], tuple(_edits(node, attributes, names, wrapped)), digest(method))
            for node in nodes
            for method in [node.method]
        )

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
        site = Site(name, kind, call.name, call.shape[call.channel_dim], channel_dim, index)
        inplace = any(c.inplace and c.read_again for c in calls)
        activation = None if wrapped else call.activation
        times = (sum(id(c) in self.in_train for c in calls), sum(id(c) not in self.in_train for c in calls))
        self.result.placements.append(Placement(site, path, activation, inplace, call.device, like, times))
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
        for name, module, reason in itertools.chain.from_iterable(record.left for record in self.records):
            self._leave(self.paths.get(module, "") if module is not None else "", name, reason)

    def _leave_uncalled(self, called: set[nn.Module | None]) -> None:
        left = {module for record in self.records for _, module, _ in record.left}
        for module, path in self.paths.items():
            kind = type(module)
            is_activation = kind.__module__ == nn.ReLU.__module__ and is_plain_leaf(module)
            if is_activation and module not in called and module not in left:
                self._leave(path, kind.__name__.lower(), "never called with this example input")

    def _leave(self, name: str, activation: str, reason: str) -> None:
        left = LeftAlone(name, activation, reason)
        if left not in self.result.left:
            self.result.left.append(left)


def paths_of(model: nn.Module) -> dict[nn.Module, str]:
    """The first path of each module."""
    return {module: path for path, module in model.named_modules()}


def name_of(call: Call, paths: dict[nn.Module, str]) -> str:
    """The name of the site that `call` belongs to."""
    if call.module is not None:
        return paths[call.module]
    return _join(paths[call.trace.owner], call.name) if call.trace else call.name


def _obstacle(call: Call) -> str | None:
    """Why a call cannot be rewritten, if so."""
    if call.trace is None:
        return f"{call.name} is called by no method of a module"
    last = call.trace.links[-1].method
    if call.trace.helper is not None and not call.trace.thin:
        return f"{call.name} is called in the function {call.trace.helper}, not in a method of the module ({last})"
    if call.trace.helper is None and not _calls_activation(call):
        return f"{last} hands {call.name} to another function instead of calling it"
    try:
        for link in call.trace.links:
            digest(link.method)
    except SourceUnavailableError as error:
        return str(error)
    return None


def _is_wrapped(leaves: Iterable[_Leaf]) -> bool:
    """Whether the call that `leaves` come from stays, and its input passes through a layer that only adds noise.

    So where the fused operation does not know the activation, and where one site has one in train and another in eval.
    """
    for leaf in leaves:
        if len({(call.name, call.activation) for call in leaf.calls}) > 1:
            return True
        if any(call.activation is None or (call.trace is not None and call.trace.helper) for call in leaf.calls):
            return True
    return False


def _calls_activation(call: Call) -> bool:
    """Whether the expression at the call's place calls the activation itself, as far as can be told."""
    assert call.trace is not None
    callee = call.trace.callee
    while isinstance(callee, functools.partial):
        callee = callee.func
    if callee is UNKNOWN or callee is call.module or isinstance(getattr(callee, "__self__", None), Tensor):
        return True
    try:
        return callee in ACTIVATIONS
    except TypeError:
        return False


def _invocation(call: Call) -> tuple[nn.Module, Method, int]:
    assert call.trace is not None
    first = call.trace.links[0]
    return call.trace.owner, first.method, first.frame


def _group(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _grow(calls: list[Call]) -> _Node:
    """The tree of one invocation of an owner's method."""
    nodes: dict[int, _Node] = {}

    def node_of(link: Link, reach: Reach = "bound") -> _Node:
        return nodes.setdefault(link.frame, _Node(link.method, reach))

    for call in calls:
        assert call.trace is not None
        links = call.trace.links
        for link, below in itertools.zip_longest(links, links[1:]):
            node = node_of(link)
            node.scopes.setdefault(link.position, set()).add(link.scope)
            children = node.children.setdefault(link.position, [])
            child = _Leaf([call]) if below is None else node_of(below, link.reach)
            if not any(child is known for known in children):
                children.append(child)
    return nodes[_invocation(calls[0])[2]]


def _merge(a: _Node, b: _Node) -> _Node:
    """What two invocations of one method show together: the n-th call at a place is the same site in both."""
    for position, theirs in b.children.items():
        ours = a.children.setdefault(position, [])
        for number, child in enumerate(theirs):
            if number == len(ours):
                ours.append(child)
            elif isinstance(child, _Leaf) and isinstance(mine := ours[number], _Leaf):
                mine.calls += child.calls
            elif isinstance(child, _Node) and isinstance(mine := ours[number], _Node) and mine.method == child.method:
                _merge(mine, child)
            else:
                raise UnsupportedActivationError(
                    f"{a.method}, line {position.line}: one call reaches different activations from run to run"
                )
        scopes = a.scopes.setdefault(position, set())
        if len(b.scopes[position]) > len(scopes):
            a.scopes[position] = b.scopes[position]
    return a


def _walk(node: _Node) -> Iterable[_Node]:
    yield node
    for children in node.children.values():
        for child in children:
            if isinstance(child, _Node):
                yield from _walk(child)


def _method_names(nodes: list[_Node]) -> dict[int, str]:
    """What the methods are called in the subclass: the first keeps its name, but not if it is called by its class."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for node in nodes:
        name, number = node.method.name, 0
        while name in taken or (node.reach == "unbound" and not number):
            number += 1
            name = f"{node.method.name}__{number}"
        taken.add(name)
        names[id(node)] = name
    return names


def _edits(node: _Node, attributes: dict[int, str], names: dict[int, str], wrapped: set[int]) -> Iterable[Edit]:
    for position, children in node.children.items():
        hoist = len(node.scopes[position]) > 1
        first = children[0]
        if len({type(child) for child in children}) > 1:
            raise UnsupportedActivationError(
                f"{node.method}, line {position.line}: one call reaches an activation at one time and a method with "
                "activations at another: write two calls, or exclude them"
            )
        if isinstance(first, _Node):
            targets = tuple(names[id(child)] for child in children)
            if any(target != first.method.name for target in targets):
                how: Literal["rename", "bind"] = "bind" if first.reach == "unbound" else "rename"
                yield Edit(position, how, targets, hoist=hoist, called=first.method.name, seen=first.reach != "unseen")
        else:
            call = first.calls[0]
            targets = tuple(attributes[id(child)] for child in children)
            yield Edit(position, "wrap" if id(first) in wrapped else "replace", targets, call.method, hoist)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
