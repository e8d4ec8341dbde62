"""What becomes of the calls in a method: the edits, and how they follow from the tree of an invocation."""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from stocnoise.conversion.finding.invocation import Leaf, Node
from stocnoise.conversion.finding.source import Position, Product, definition
from stocnoise.conversion.finding.trace import Helper, Method
from stocnoise.errors import UnsupportedActivationError

How = Literal["replace", "wrap", "let", "rename", "bind", "function", "method", "object", "partial"]


@dataclass(frozen=True)
class Edit:
    """What becomes of one call expression. It stands for as many calls as there are targets, in this order.

    `how`: "replace" calls the target with the input instead; "wrap" passes the input through the target first; "let"
    does so once for a product in which the input, `product.x`, stands several times; "rename" calls the target, a
    method of self in place of the one that is `called`, with the same arguments; "bind" does so without the first of
    them, which is self; "function", "method" and "object" call the target, a method made of a helper, in place of a
    function, or with the object before the arguments that had the method, or was called; "partial" calls it with the
    arguments that were bound before. `method` says that the input
    is what stands before the dot, `seen` that the expression before the arguments is the method that is called. `hoist`
    counts the calls through the whole method rather than through the function inside it.
    """

    position: Position
    how: How
    targets: tuple[str, ...]
    method: bool = False
    hoist: bool = False
    called: str = ""
    seen: bool = True
    product: Product | None = None


@dataclass(frozen=True)
class MethodEdit:
    """The edits of one method; `name` is what the result is called in the subclass."""

    method: Method | Helper
    name: str
    edits: tuple[Edit, ...]
    digest: int


@dataclass(frozen=True)
class Rewritten:
    """What a subclass was made from."""

    cls: type[nn.Module]
    methods: tuple[MethodEdit, ...] = ()
    entry: str = ""
    """The layer that the input of the whole module passes through."""

    def layers(self) -> Iterator[str]:
        """The attributes of an instance that hold its stochastic layers."""
        if self.entry:
            yield self.entry
        for method in self.methods:
            for edit in method.edits:
                if edit.how in ("replace", "wrap", "let"):
                    yield from edit.targets


def digest(method: Method | Helper) -> int:
    """Tells whether the source of `method` has changed since."""
    return zlib.crc32(ast.unparse(definition(method.function().__code__)).encode())


def method_names(nodes: list[Node]) -> dict[int, str]:
    """What the methods are called in the subclass: the first keeps its name, but not if it is called by its class."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for node in nodes:
        name, number = node.method.name, 0
        while name in taken or (not number and (node.reach == "unbound" or isinstance(node.method, Helper))):
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
            if isinstance(first.method, Helper):
                reach = first.reach
                assert reach == "function" or reach == "method" or reach == "object" or reach == "partial"
                yield Edit(position, reach, targets, hoist=hoist, called=str(first.method))
            elif any(target != first.method.name for target in targets):
                how: How = "bind" if first.reach == "unbound" else "rename"
                yield Edit(position, how, targets, hoist=hoist, called=first.method.name, seen=first.reach != "unseen")
        else:
            call = first.calls[0]
            targets = tuple(attributes[id(child)] for child in children)
            how = "let" if call.product is not None else "wrap" if id(first) in wrapped else "replace"
            yield Edit(position, how, targets, call.method, hoist, product=call.product)


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
