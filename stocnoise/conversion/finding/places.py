"""A module that stands in several places, as one module for each of them.

A view of a module has its class, its attributes and its very dictionaries of parameters, buffers and hooks; only its
submodules are its own to exchange. So two views stay tied whatever happens to their weights (optimisers, `.to`,
`load_state_dict`, copies, pickles), and each can hold stochastic layers of its own. What a module binds to its
attributes when it runs is not shared, so a module that does so is not taken apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

from torch import nn


def slots(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Each place that holds a submodule: (path, parent, name, child).

    Unlike `named_modules` this gives a child under every name that it has in one parent; a parent is entered once.
    """
    entered: set[int] = set()

    def walk(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
        if id(parent) in entered:
            return
        entered.add(id(parent))
        for name, child in list(parent._modules.items()):
            if child is not None:
                path = join(prefix, name)
                yield path, parent, name, child
                yield from walk(child, path)

    yield from walk(model, prefix)


def paths_of(model: nn.Module) -> dict[nn.Module, str]:
    """The first path of each module."""
    return {module: path for path, module in model.named_modules()}


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def is_plain_leaf(module: nn.Module) -> bool:
    """A module with nothing inside, as most activations are: copying it changes no parameter and no key."""
    return not (module._modules or module._parameters or module._buffers)


def view(module: nn.Module) -> nn.Module:
    made = object.__new__(type(module))
    vars(made).update(vars(module), _modules=dict(module._modules))
    return made


class Views:
    """Takes a skeleton apart, so that a run tells which place a call came through, and puts it together again.

    A plain leaf becomes one object for each place for good: one that is never called does no harm. Other modules become
    views, of which `reunite` leaves those that a run had reason to tell apart.
    """

    def __init__(self, model: nn.Module, *, leaves_only: bool = False) -> None:
        self.model = model
        self.copied: dict[nn.Module, nn.Module] = {}  # plain leaves, and of what they are copies
        self._original: dict[nn.Module, nn.Module] = {}
        self._families: dict[nn.Module, list[nn.Module]] = {}
        self._seen: set[nn.Module] = {model}
        self._separate(model, leaves_only)
        self._stateful: set[nn.Module] = set()
        self._before = {original: dict(vars(original)) for original in self._families}

    def __bool__(self) -> bool:
        return bool(self._families)

    def _separate(self, parent: nn.Module, leaves_only: bool) -> None:
        for name, child in parent._modules.items():
            if child is None:
                continue
            place = child
            if child in self._seen and is_plain_leaf(child):
                place = copy.copy(child)
                self.copied[place] = self.copied.get(child, child)
            elif child in self._seen and leaves_only:
                continue
            elif child in self._seen:
                place = view(child)
                original = self._original[place] = self._original.get(child, child)
                self._families.setdefault(original, [original]).append(place)
            parent._modules[name] = place
            self._seen.add(place)
            self._separate(place, leaves_only)

    def reunite(self, called: Callable[[nn.Module], bool]) -> dict[nn.Module, nn.Module]:
        """Leave apart only places with a call of their own, of the place itself or of one inside it.

        Returns:
            what now stands for each module that is gone.
        """
        active = _Active(called)
        stands: dict[nn.Module, nn.Module] = {}
        for original, family in self._families.items():
            reached = [member for member in family if active(member)]
            first = reached[0] if reached else original
            stands.update((member, first) for member in family if member not in reached and member is not first)
            self._families[original] = [first, *reached[1:]]
        for module in (self.model, *{child for *_, child in slots(self.model)}):
            for name, child in module._modules.items():
                if child in stands:
                    module._modules[name] = stands[child]
        return stands

    def note_state(self) -> None:
        """Note which modules bound an attribute anew in the run that has ended."""
        self._stateful |= {
            original
            for original, before in self._before.items()
            for member in self._families[original]
            for name in {*before, *vars(member)} - {"_modules", "training"}
            if not name.endswith("_hooks") and vars(member).get(name, self) is not before.get(name, self)
        }

    def keep_state(self) -> bool:
        """Whether a module of those that were left apart did so."""
        return any(len(self._families[original]) > 1 for original in self._stateful)

    def paths(self, converted: Iterable[str], rewritten: Iterable[str]) -> list[str]:
        """The places of `model` that need a view, if something is to be changed at the paths `converted`.

        One place of each module keeps the module itself. A plain leaf is mostly replaced, which needs no view, but its
        methods may be rewritten.
        """
        touched = {self._original.get(module, module) for path in converted for module in _along(self.model, path)}
        modules = (self.model.get_submodule(path) for path in rewritten)
        leaves = {self.copied.get(module, module) for module in modules}.intersection(self.copied.values())
        touched |= leaves
        claimed: dict[nn.Module, nn.Module] = {}
        return [
            path
            for path, _, _, child in slots(self.model)
            for leaf in [self.copied.get(child, child)]
            for original in [leaf if leaf in leaves else self._original.get(child, child)]
            if claimed.setdefault(original, child) is not child and original in touched
        ]


class _Active:
    """Whether a module, or one inside it, was called."""

    def __init__(self, called: Callable[[nn.Module], bool]) -> None:
        self._called = called
        self._known: dict[nn.Module, bool] = {}

    def __call__(self, module: nn.Module) -> bool:
        if module not in self._known:
            inside = [self(child) for child in module._modules.values() if child is not None]
            self._known[module] = self._called(module) or any(inside)
        return self._known[module]


def _along(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The modules on the way to `path`, as far as there are any."""
    for name in path.split("."):
        child = model._modules.get(name)
        if child is None:
            return
        yield child
        model = child
