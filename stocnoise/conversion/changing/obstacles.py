"""Which calls cannot be rewritten, and why."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from stocnoise.conversion.changing.edits import digest
from stocnoise.conversion.finding.callee import UNKNOWN
from stocnoise.conversion.finding.calls import Call
from stocnoise.conversion.finding.catalog import activation_reader
from stocnoise.conversion.finding.source import SourceUnavailableError


def obstacle(call: Call) -> str | None:
    """Why a call cannot be rewritten, if so."""
    if call.trace is None:
        return f"{call.name} is called by no method of a module"
    last = call.trace.links[-1].method
    if call.hidden:
        return f"{call.name} is called in code that is compiled, in {last}, where no noise can be added"
    if call.trace.helper is not None and not call.trace.thin:
        helper = call.trace.helper
        return f"{call.name} is called in the function {helper}, which cannot be rewritten for one module ({last})"
    if call.written_out and call.product is None and not call.trace.thin:
        return f"{call.name} is written out in {last}: write it as one expression of a variable"
    if call.trace.helper is None and not call.written_out and not _calls_activation(call):
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
    if callee is UNKNOWN or isinstance(callee, nn.Module) or isinstance(getattr(callee, "__self__", None), Tensor):
        return True
    return activation_reader(callee) is not None
