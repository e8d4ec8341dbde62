"""Which calls cannot be rewritten, and why."""

from __future__ import annotations

import functools

from torch import Tensor

from stocnoise.conversion.changing.edits import digest
from stocnoise.conversion.finding.catalog import ACTIVATIONS
from stocnoise.conversion.finding.probe import Call
from stocnoise.conversion.finding.source import SourceUnavailableError
from stocnoise.conversion.finding.trace import UNKNOWN


def obstacle(call: Call) -> str | None:
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
