"""What a method called when it ran, as a tree; and what several runs show together."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stocnoise.conversion.finding.calls import Call
from stocnoise.conversion.finding.loops import varies
from stocnoise.conversion.finding.source import Position
from stocnoise.conversion.finding.trace import Helper, Link, Method, Reach
from stocnoise.errors import UnsupportedActivationError


@dataclass
class Leaf:
    """The calls, one of each run, that are one site."""

    calls: list[Call]


@dataclass
class Node:
    """A method of an owner as it ran: at each position, in order, the activations and further methods called there."""

    method: Method | Helper
    reach: Reach = "bound"
    """How it is called by the method above it."""
    children: dict[Position, list[Leaf | Node]] = field(default_factory=dict)
    scopes: dict[Position, set[int]] = field(default_factory=dict)


def invocation(call: Call) -> tuple[nn.Module, Method | Helper, int]:
    assert call.trace is not None
    first = call.trace.links[0]
    return call.trace.owner, first.method, first.frame


def grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def grow(calls: list[Call], decided: Mapping[int, Set[int]]) -> Node:
    """The tree of one invocation of an owner's method.

    What a loop calls that runs as often as values say is one place, however often it was called. `decided` tells at
    which lines of which frames values were read.
    """
    nodes: dict[int, Node] = {}

    def node_of(link: Link, reach: Reach = "bound") -> Node:
        return nodes.setdefault(link.frame, Node(link.method, reach))

    for call in calls:
        assert call.trace is not None
        links = call.trace.links
        for link, below in itertools.zip_longest(links, links[1:]):
            node = node_of(link)
            node.scopes.setdefault(link.position, set()).add(link.scope)
            children = node.children.setdefault(link.position, [])
            child = Leaf([call]) if below is None else node_of(below, link.reach)
            if not any(child is known for known in children):
                children.append(child)
    for frame, node in nodes.items():
        for position, children in node.children.items():
            lines = decided.get(frame, set()) | decided.get(min(node.scopes[position]), set())
            if len(children) > 1 and lines and varies(node.method.function().__code__, position, lines):
                node.children[position] = [functools.reduce(_united, children)]
    return nodes[invocation(calls[0])[2]]


def _united(a: Leaf | Node, b: Leaf | Node) -> Leaf | Node:
    if isinstance(a, Leaf) and isinstance(b, Leaf):
        return Leaf(a.calls + b.calls)
    if isinstance(a, Node) and isinstance(b, Node) and a.method == b.method:
        return merge(a, b)
    raise UnsupportedActivationError("one call in a loop reaches different activations, as values say")


def merge(a: Node, b: Node) -> Node:
    """What two invocations of one method show together: the n-th call at a place is the same site in both."""
    for position, theirs in b.children.items():
        ours = a.children.setdefault(position, [])
        for number, child in enumerate(theirs):
            if number == len(ours):
                ours.append(child)
            elif isinstance(child, Leaf) and isinstance(mine := ours[number], Leaf):
                mine.calls += child.calls
            elif isinstance(child, Node) and isinstance(mine := ours[number], Node) and mine.method == child.method:
                merge(mine, child)
            else:
                raise UnsupportedActivationError(
                    f"{a.method}, line {position.line}: one call reaches different activations from run to run"
                )
        scopes = a.scopes.setdefault(position, set())
        if len(b.scopes[position]) > len(scopes):
            a.scopes[position] = b.scopes[position]
    return a


def walk(node: Node) -> Iterable[Node]:
    yield node
    for children in node.children.values():
        for child in children:
            if isinstance(child, Node):
                yield from walk(child)
