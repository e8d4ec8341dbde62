"""What a method called when it ran, as a tree; what several runs show together; and the edits that follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from stocnoise.conversion.probe import Call
from stocnoise.conversion.rewrite import Edit
from stocnoise.conversion.source import Position
from stocnoise.conversion.trace import Link, Method, Reach
from stocnoise.errors import UnsupportedActivationError


@dataclass
class Leaf:
    """The calls, one of each run, that are one site."""

    calls: list[Call]


@dataclass
class Node:
    """A method of an owner as it ran: at each position, in order, the activations and further methods called there."""

    method: Method
    reach: Reach = "bound"
    """How it is called by the method above it."""
    children: dict[Position, list[Leaf | Node]] = field(default_factory=dict)
    scopes: dict[Position, set[int]] = field(default_factory=dict)


def invocation(call: Call) -> tuple[nn.Module, Method, int]:
    assert call.trace is not None
    first = call.trace.links[0]
    return call.trace.owner, first.method, first.frame


def grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def grow(calls: list[Call]) -> Node:
    """The tree of one invocation of an owner's method."""
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
    return nodes[invocation(calls[0])[2]]


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


def method_names(nodes: list[Node]) -> dict[int, str]:
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


def edits(node: Node, attributes: dict[int, str], names: dict[int, str], wrapped: set[int]) -> Iterable[Edit]:
    for position, children in node.children.items():
        hoist = len(node.scopes[position]) > 1
        first = children[0]
        if len({type(child) for child in children}) > 1:
            raise UnsupportedActivationError(
                f"{node.method}, line {position.line}: one call reaches an activation at one time and a method with "
                "activations at another: write two calls, or exclude them"
            )
        if isinstance(first, Node):
            targets = tuple(names[id(child)] for child in children)
            if any(target != first.method.name for target in targets):
                how: Literal["rename", "bind"] = "bind" if first.reach == "unbound" else "rename"
                yield Edit(position, how, targets, hoist=hoist, called=first.method.name, seen=first.reach != "unseen")
        else:
            call = first.calls[0]
            targets = tuple(attributes[id(child)] for child in children)
            yield Edit(position, "wrap" if id(first) in wrapped else "replace", targets, call.method, hoist)


def is_wrapped(leaves: Iterable[Leaf]) -> bool:
    """Whether the call that `leaves` come from stays, and its input passes through a layer that only adds noise.

    So where the fused operation does not know the activation, and where one site has one in train and another in eval.
    """
    for leaf in leaves:
        if len({(call.name, call.activation) for call in leaf.calls}) > 1:
            return True
        if any(call.activation is None or (call.trace is not None and call.trace.helper) for call in leaf.calls):
            return True
    return False
