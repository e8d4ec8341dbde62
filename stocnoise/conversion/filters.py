"""Which sites are meant: by glob, by module type, by predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

Filter = Callable[[str, nn.Module], bool]
FilterLike = str | type[nn.Module] | Filter | Iterable["str | type[nn.Module] | Filter"]


def make_filter(given: FilterLike | None, argument: str) -> Filter | None:
    """A predicate (name, module) -> bool that holds where any of the given filters does.

    Args:
        given: a glob on the site's name ("layer1.*"), a module type, a predicate, or several of these. The module that
            types and predicates are asked about is the activation module; for a functional call, the one that makes it.
        argument: what to call it in an error.
    """
    if given is None:
        return None
    if isinstance(given, (str, type)) or callable(given):
        return _single(given, argument)
    if not isinstance(given, Iterable):
        raise _not_a_filter(argument, given)
    singles = [_single(part, argument) for part in given]
    return lambda name, module: any(single(name, module) for single in singles)


def _single(given: object, argument: str) -> Filter:
    if isinstance(given, str):
        return lambda name, module: fnmatchcase(name, given)
    if isinstance(given, type) and issubclass(given, nn.Module):
        return lambda name, module: isinstance(module, given)
    if callable(given) and not isinstance(given, type):
        return lambda name, module: bool(given(name, module))
    raise _not_a_filter(argument, given)


def _not_a_filter(argument: str, given: object) -> TypeError:
    return TypeError(f"{argument} takes name globs, module types or a predicate (name, module) -> bool, not {given!r}")
